//! What answers cost, as clients are told.

use std::time::Duration;

use serde::Serialize;

use crate::engine::desk::Account;

/// Tokens, as OpenAI counts them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

/// Where the time of an answer went, under the name `penstock`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Attribution {
    queue_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    /// Of prefill and decode, waiting for the disk, and the rest.
    disk_ms: f64,
    compute_ms: f64,
    steps: u64,
    /// Requests in its steps, on average.
    batch: f64,
    bytes_moved: u64,
    bytes_held: u64,
    bytes_read: u64,
    /// Of the experts' bytes, how much was in memory; null if there are none.
    hit_rate: Option<f64>,
    shared_tokens: usize,
    drafted: u64,
    accepted: u64,
    preempted: u32,
}

impl Attribution {
    pub fn of(account: &Account) -> Attribution {
        let experts = account.held + account.read;
        let busy = account.prefill + account.decode;
        Attribution {
            queue_ms: milliseconds(account.queued),
            prefill_ms: milliseconds(account.prefill),
            decode_ms: milliseconds(account.decode),
            disk_ms: milliseconds(account.disk),
            compute_ms: milliseconds(busy.saturating_sub(account.disk)),
            steps: account.steps,
            batch: (f64::from(account.batch) * 100.0).round() / 100.0,
            bytes_moved: account.moved,
            bytes_held: account.held,
            bytes_read: account.read,
            hit_rate: (experts > 0)
                .then(|| (account.held as f64 / experts as f64 * 1e4).round() / 1e4),
            shared_tokens: account.shared_tokens,
            drafted: account.drafted,
            accepted: account.accepted,
            preempted: account.preempted,
        }
    }
}

/// To the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// The accounts of all answers to one request, gathered as they end.
pub struct Bill {
    /// Tokens of each prompt, and how many answers each has; these come one after the other.
    prompts: Vec<usize>,
    each: usize,
    accounts: Vec<Account>,
    thoughts: usize,
    open: usize,
}

impl Bill {
    pub fn new(prompts: Vec<usize>, each: usize) -> Bill {
        let open = prompts.len() * each;
        Bill { prompts, each, accounts: vec![Account::default(); open], thoughts: 0, open }
    }

    pub fn thought(&mut self) {
        self.thoughts += 1;
    }

    /// Takes one answer's account; whether it was the last.
    pub fn take(&mut self, at: usize, account: Account) -> bool {
        self.accounts[at] = account;
        self.open -= 1;
        self.open == 0
    }

    /// A prompt counts once, however many answers it has.
    pub fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.iter().sum();
        let completion_tokens = self.accounts.iter().map(|a| a.answer_tokens).sum();
        // What the answer that found least had to compute was computed.
        let least = |answers: &[Account]| answers.iter().map(|a| a.shared_tokens).min();
        let cached_tokens = self.accounts.chunks(self.each.max(1)).filter_map(least).sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
            completion_tokens_details: CompletionDetails { reasoning_tokens: self.thoughts },
        }
    }

    /// All answers as one: they lived side by side, so times are the longest; bytes add up.
    pub fn sum(&self) -> Account {
        let mut sum = Account::default();
        for one in &self.accounts {
            sum = Account {
                queued: sum.queued.max(one.queued),
                prefill: sum.prefill.max(one.prefill),
                decode: sum.decode.max(one.decode),
                disk: sum.disk.max(one.disk),
                prompt_tokens: sum.prompt_tokens + one.prompt_tokens,
                shared_tokens: sum.shared_tokens + one.shared_tokens,
                answer_tokens: sum.answer_tokens + one.answer_tokens,
                steps: sum.steps.max(one.steps),
                batch: sum.batch.max(one.batch),
                preempted: sum.preempted + one.preempted,
                drafted: sum.drafted + one.drafted,
                accepted: sum.accepted + one.accepted,
                moved: sum.moved + one.moved,
                held: sum.held + one.held,
                read: sum.read + one.read,
            };
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_and_what_was_shared_by_all_its_answers() {
        let account = |shared_tokens, answer_tokens, read| Account {
            shared_tokens,
            answer_tokens,
            read,
            held: 3 * read,
            queued: Duration::from_micros(read),
            ..Account::default()
        };
        let mut bill = Bill::new(vec![10, 20], 2);
        let all = [account(0, 5, 100), account(9, 6, 200), account(16, 1, 0), account(17, 2, 10)];
        let last: Vec<_> = all.iter().enumerate().map(|(at, a)| bill.take(at, *a)).collect();
        assert_eq!(last, [false, false, false, true]);
        let usage = bill.usage();
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
            (30, 14, 44)
        );
        assert_eq!(usage.prompt_tokens_details.cached_tokens, 16);
        let said = Attribution::of(&bill.sum());
        assert_eq!((said.bytes_read, said.hit_rate, said.queue_ms), (310, Some(0.75), 0.2));
        assert_eq!(Attribution::of(&Account::default()).hit_rate, None);
    }
}
