//! Pages on their way to disk and back, so that who comes again, or was preempted, finds what was
//! computed although its room was needed meanwhile.
//!
//! Bytes are copied between steps and never in one: out of the arena into a buffer that the disk
//! then has, or out of a buffer into a page that nobody holds. So a page on its way binds nothing.
//! It may be thrown out of memory, and its slot may be used for another: what comes back is
//! compared by its sum, and what is not what was written is computed anew, as is what does not
//! come.
//!
//! Which pages go, and what there is of a prompt, [`kv`](super::kv) knows. A request that waits
//! and whose prompt goes on here is held back (the scheduler's *hold*) while it is *recalled*: as
//! far as there are pages for it, and only if that takes less time than computing it would, as far as
//! both are known.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::desk::Inner;
use super::kv::{Census, Continuation, Kept, PagePool, PageTable, ToSpill};
use crate::base::limits::PAGE;
use crate::base::sum::sum;
use crate::base::units::Bytes;
use crate::host::bell::Bell;
use crate::host::direct::{Aligned, SECTOR};
use crate::host::scratch::{Landed, Scratch, ScratchError};
use crate::shard::{Queues, Task};

/// Why nothing can be spilled.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error("{} for spilled pages hold none: one takes {}", Bytes(*room), Bytes(*page))]
    Small { room: u64, page: u64 },

    #[error(transparent)]
    File(#[from] ScratchError),

    #[error("no bell can be made: {0}")]
    Bell(io::Error),
}

/// Pages that went to disk, came back, and were not what had been written or did not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    pub out: u64,
    pub back: u64,
    pub lost: u64,
}

/// What waits for the disk is computed when it has not answered for so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon a request that waits is looked at again, for what it had in memory may have gone.
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes of buffers, and how many there are at least and at most.
const BUFFERS: usize = 32 << 20;
const FEWEST: usize = 4;
const MOST: usize = 64;
/// Bytes that are copied to be written between two steps, but one page in any case.
const BURST: usize = 8 << 20;
/// The part of what is known of the disk's speed that a new measurement replaces.
const RATE: f64 = 0.3;
/// What reading is thought to cost less, each time that computing is thought to cost less still:
/// or one bad moment would be held against the disk for ever.
const MERCY: f64 = 0.9;

pub struct Spill {
    disk: Scratch<Trip>,
    pool: PagePool,
    page_bytes: usize,
    slot_bytes: usize,
    /// Buffers that nobody uses, and all there are.
    spare: Vec<Aligned>,
    buffers: usize,
    most_buffers: usize,
    writing: usize,
    recalls: BTreeMap<u64, Recall>,
    /// When requests may be looked at again.
    looks: BTreeMap<u64, Duration>,
    started: u64,
    /// Seconds in which a page comes back, once one has.
    page_seconds: Option<f64>,
    /// The disk would not take a page, so it is given none.
    full: bool,
    /// Something was said of what it gives back.
    blamed: bool,
    counts: Spilled,
    listener: Box<dyn FnMut(String)>,
    /// Tells the service that something is over.
    _ear: Task<()>,
}

/// What a read or write is for.
enum Trip {
    Out { slot: u32, sum: u64 },
    Back { recall: u64, number: u64, index: usize, kept: Kept },
}

/// A request's pages that are being brought back.
struct Recall {
    number: u64,
    /// Its tokens but the last.
    tokens: Vec<u32>,
    /// Pages of it that were in memory, and those that follow on disk.
    known: usize,
    kept: Vec<Kept>,
    /// Of these: sent for, come, and put into pages.
    sent: usize,
    came: BTreeMap<usize, Aligned>,
    done: usize,
    began: Duration,
    /// When the disk last answered.
    heard: Duration,
}

impl Spill {
    /// Room for pages in a file of this folder. `listener` hears, once, that something is wrong.
    pub(super) fn new(
        folder: &Path,
        room: u64,
        page_bytes: usize,
        desk: &Rc<Inner>,
        queues: &Queues,
        listener: impl FnMut(String) + 'static,
    ) -> Result<Spill, SpillError> {
        let slot_bytes = page_bytes.next_multiple_of(SECTOR);
        let slots = room / slot_bytes as u64;
        if slots == 0 {
            return Err(SpillError::Small { room, page: slot_bytes as u64 });
        }
        let bell = Bell::new().map_err(SpillError::Bell)?;
        let ear = bell.ear().map_err(SpillError::Bell)?;
        let most_buffers = (BUFFERS / slot_bytes).clamp(FEWEST, MOST);
        // All that was asked for, or a folder that has too little would be said to lack less.
        let len = slots * slot_bytes as u64;
        let disk = Scratch::create(folder, len, most_buffers, &bell)?;
        // What lies beyond the last slot that has a number is not used.
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        desk.pool.shelve(slots);
        let told = Rc::clone(desk);
        let ear = queues.spawn(queues.staging, async move {
            loop {
                ear.listen().await;
                told.ring();
            }
        });
        Ok(Spill {
            disk,
            pool: desk.pool.clone(),
            page_bytes,
            slot_bytes,
            spare: Vec::new(),
            buffers: 0,
            most_buffers,
            writing: 0,
            recalls: BTreeMap::new(),
            looks: BTreeMap::new(),
            started: 0,
            page_seconds: None,
            full: false,
            blamed: false,
            counts: Spilled::default(),
            listener: Box::new(listener),
            _ear: ear,
        })
    }

    pub fn counts(&self) -> Spilled {
        self.counts
    }

    /// Begins to bring back what there is on disk of a request's tokens, if that is worth it:
    /// `computing` says how long it would take to compute so many. `false`: there is nothing to
    /// wait for.
    pub fn recall(
        &mut self,
        now: Duration,
        id: u64,
        tokens: &[u32],
        computing: impl Fn(usize) -> Duration,
    ) -> bool {
        if self.looks.get(&id).is_some_and(|then| *then > now) {
            return false;
        }
        self.looks.insert(id, now.saturating_add(AGAIN));
        let Some(Continuation { known, mut kept }) = self.pool.continuation(tokens) else {
            return false;
        };
        let Census { free, cached, .. } = self.pool.census();
        let coming: usize = self.recalls.values().map(|other| other.kept.len() - other.done).sum();
        kept.truncate((free + cached).saturating_sub(known + coming));
        if kept.is_empty() {
            return false;
        }
        if let Some(page_seconds) = &mut self.page_seconds {
            let computing = computing(kept.len() * PAGE).as_secs_f64();
            if *page_seconds * (coming + kept.len()) as f64 >= computing {
                *page_seconds *= MERCY;
                return false;
            }
        }
        self.started += 1;
        let recall = Recall {
            number: self.started,
            tokens: tokens[..tokens.len() - 1].to_vec(),
            known,
            kept,
            sent: 0,
            came: BTreeMap::new(),
            done: 0,
            began: now,
            heard: now,
        };
        self.recalls.insert(id, recall);
        self.send();
        true
    }

    /// It has begun, or is gone.
    pub fn forget(&mut self, id: u64) {
        self.looks.remove(&id);
        if let Some(recall) = self.recalls.remove(&id) {
            self.spare.extend(recall.came.into_values());
        }
    }

    /// When somebody will have waited for the disk for too long.
    pub fn deadline(&self) -> Option<Duration> {
        self.recalls.values().map(|recall| recall.heard + PATIENCE).min()
    }

    /// Takes in what the disk has done, puts into pages what has come, and sends for more. Says who
    /// waits no longer. `arena` has the bytes of all pages.
    pub fn take_in(&mut self, now: Duration, arena: &mut [u8]) -> Vec<u64> {
        while let Some(landed) = self.disk.landed() {
            self.land(now, landed);
        }
        let mut over = Vec::new();
        for (&id, recall) in &mut self.recalls {
            self.counts.back += recall.put(&self.pool, arena, self.page_bytes, &mut self.spare);
            let late = now >= recall.heard + PATIENCE;
            if recall.done == recall.kept.len() || late {
                let pages = recall.done.max(1) as f64;
                if recall.done > 0 || late {
                    let seconds = (now - recall.began).as_secs_f64() / pages;
                    let before = self.page_seconds.unwrap_or(seconds);
                    self.page_seconds = Some(before + RATE * (seconds - before));
                }
                over.push(id);
            }
        }
        for id in &over {
            self.forget(*id);
            self.looks.insert(*id, Duration::MAX);
        }
        self.send();
        over
    }

    fn land(&mut self, now: Duration, landed: Landed<Trip>) {
        let Landed { what, bytes, result } = landed;
        match what {
            Trip::Out { slot, sum } => {
                self.writing -= 1;
                self.spare.push(bytes);
                self.pool.spilled(slot, result.is_ok().then_some(sum));
                match result {
                    Ok(()) => self.counts.out += 1,
                    Err(error) if !self.full => {
                        self.full = true;
                        (self.listener)(format!(
                            "pages cannot be written to the spill file ({error}); no more are, and \
                             what is not there is computed anew"
                        ));
                    }
                    Err(_) => {}
                }
            }
            Trip::Back { recall, number, index, kept } => {
                let fault = match result {
                    Ok(()) if sum(&bytes[..self.page_bytes]) == kept.sum => None,
                    Ok(()) => Some("it is not what was written".to_string()),
                    Err(error) => Some(error.to_string()),
                };
                let recall = self.recalls.get_mut(&recall).filter(|known| known.number == number);
                match (&fault, recall) {
                    (None, Some(recall)) => {
                        recall.heard = now;
                        recall.came.insert(index, bytes);
                    }
                    (Some(_), Some(recall)) => {
                        recall.kept.truncate(index);
                        self.spare.push(bytes);
                    }
                    (_, None) => self.spare.push(bytes),
                }
                if let Some(fault) = fault {
                    self.pool.lost(kept);
                    self.counts.lost += 1;
                    if !std::mem::replace(&mut self.blamed, true) {
                        (self.listener)(format!(
                            "a page cannot be read back from the spill file ({fault}); it is \
                             computed anew, as others will be"
                        ));
                    }
                }
            }
        }
    }

    /// Sends for pages, those of the request that came first before others'.
    fn send(&mut self) {
        for id in self.recalls.keys().copied().collect::<Vec<_>>() {
            loop {
                if !self.disk.is_free() {
                    return;
                }
                let Some(recall) = self.recalls.get(&id) else { break };
                let Some(&kept) = recall.kept.get(recall.sent) else { break };
                let Some(buffer) = self.buffer() else { return };
                let Some(recall) = self.recalls.get_mut(&id) else { break };
                let (number, index) = (recall.number, recall.sent);
                recall.sent += 1;
                let at = u64::from(kept.slot) * self.slot_bytes as u64;
                self.disk.read(Trip::Back { recall: id, number, index, kept }, buffer, at);
            }
        }
    }

    /// Sends pages to disk whose room will soon be needed.
    pub fn send_out(&mut self, arena: &[u8]) {
        let mut copied = 0;
        // Half of the buffers are for what somebody waits for.
        while !self.full
            && copied < BURST
            && self.writing < self.most_buffers / 2
            && self.disk.is_free()
        {
            let Some(mut buffer) = self.buffer() else { return };
            let Some(ToSpill { page, slot }) = self.pool.next_to_spill() else {
                return self.spare.push(buffer);
            };
            let bytes = &arena[page as usize * self.page_bytes..][..self.page_bytes];
            buffer[..self.page_bytes].copy_from_slice(bytes);
            self.writing += 1;
            copied += self.page_bytes;
            let at = u64::from(slot) * self.slot_bytes as u64;
            self.disk.write(Trip::Out { slot, sum: sum(bytes) }, buffer, at);
        }
    }

    fn buffer(&mut self) -> Option<Aligned> {
        if let Some(buffer) = self.spare.pop() {
            return Some(buffer);
        }
        (self.buffers < self.most_buffers).then(|| {
            self.buffers += 1;
            Aligned::zeroed(self.slot_bytes)
        })
    }
}

impl Recall {
    /// Puts what has come into pages, in order; says how many.
    fn put(
        &mut self,
        pool: &PagePool,
        arena: &mut [u8],
        page_bytes: usize,
        spare: &mut Vec<Aligned>,
    ) -> u64 {
        // What came behind a page that is lost continues nothing.
        let vain = self.came.split_off(&self.kept.len());
        spare.extend(vain.into_values());
        if !self.came.contains_key(&self.done) {
            return 0;
        }
        let mut table = PageTable::new(pool);
        let mut put = 0;
        let mut found = table.find(&self.tokens, 0) / PAGE;
        while let Some(bytes) = self.came.remove(&self.done) {
            let place = self.known + self.done;
            let fill = |page: u32| {
                let to = &mut arena[page as usize * page_bytes..][..page_bytes];
                to.copy_from_slice(&bytes[..page_bytes]);
            };
            // Others may have computed it meanwhile, or thrown out what it continues.
            if found == place && table.bring(&self.tokens, fill) {
                found += 1;
                put += 1;
            }
            spare.push(bytes);
            if found <= place {
                self.kept.truncate(self.done);
                break;
            }
            self.done += 1;
        }
        put
    }
}

#[cfg(all(test, not(miri)))]
mod tests;
