//! One sequence: its tokens, its pages, its sampler and how far it has come.

use std::ops::Range;
use std::rc::Rc;

use super::Error;
use super::draft::{Tally, propose};
use super::kv::PageTable;
use crate::math::Kernels;
use crate::model::channels::{Channels, Voice};
use crate::model::grammar::{Grammar, GrammarError, Reins};
use crate::model::sampling::{Choice, SampleError, Sampler, SamplingParams, StopMatcher};
use crate::model::tokenizer::{Detokenizer, Tokenizer};

/// What a session is asked to do with its prompt.
#[derive(Clone, Default)]
pub struct Settings {
    pub sampling: SamplingParams,
    /// Tokens to write at most; `None`: until the text ends or the context is full.
    pub max_tokens: Option<usize>,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// Turns tokens into text and knows which end it; without one, events carry ids alone and
    /// nothing but a limit ends the answer.
    pub tokenizer: Option<Rc<Tokenizer>>,
    /// Do not end at the tokens that end a text.
    pub ignore_end: bool,
    /// What the answer keeps to. It ends where that can only end.
    pub grammar: Option<Grammar>,
    /// Control tokens that are part of the text: those that mark calls of tools.
    pub shown: Rc<[u32]>,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended the text.
    Text,
    /// A stop string was written.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// No room for another position.
    ContextFull,
    /// Other sessions hold the pages it needs, and none of them can go on either.
    NoPages,
    Cancelled,
    /// It waited longer than it was to.
    Expired,
    /// No token could be drawn.
    Failed(SampleError),
    /// Weights it needs cannot be read: which, and why.
    Lost(String),
}

#[derive(Clone, Debug)]
pub struct Event {
    /// The session it is about.
    pub session: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A part of the prompt was computed.
    Prefilled { done: usize, total: usize },
    /// A token was chosen. `text` is what it completes: whole characters, possibly none.
    Token { choice: Choice, text: String, voice: Voice },
    /// The end. `text` is what was still held back.
    Ended { end: End, text: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Ended(End),
}

/// A sequence being written. It may be advanced, paused, parked, cancelled or dropped at any token;
/// its pages go back when it is dropped.
pub struct Session {
    id: u64,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt: usize,
    /// Positions whose keys and values are in the pages.
    computed: usize,
    /// The most that `computed` ever was: what is below was computed before, and lost.
    reached: usize,
    /// Positions that this request had not to compute.
    shared: usize,
    pages: PageTable,
    settings: Settings,
    sampler: Sampler,
    reins: Option<Reins>,
    text: Option<TextStream>,
    state: State,
    /// How its own guesses did, and how another model's.
    tally: Tally,
    pub(super) model_tally: Tally,
    /// Positions it computes in the step under way, what is guessed to come after them, and whether
    /// another model guessed it.
    pub(super) turn: Option<Range<usize>>,
    drafts: Vec<u32>,
    from_model: bool,
    /// It writes guesses for another session: what lies beyond its prompt is soon taken back, and
    /// not made known.
    pub(super) guessing: bool,
}

impl Session {
    pub(super) fn new(
        id: u64,
        prompt: Vec<u32>,
        settings: Settings,
        pages: PageTable,
        kernels: Kernels,
    ) -> Result<Session, Error> {
        let mut session = Session {
            id,
            tokens: Vec::new(),
            prompt: 0,
            computed: 0,
            reached: 0,
            shared: 0,
            pages,
            sampler: Sampler::new(settings.sampling.clone(), kernels)?,
            reins: None,
            text: None,
            settings: Settings::default(),
            state: State::Paused,
            tally: Tally::default(),
            model_tally: Tally::of_model(),
            turn: None,
            drafts: Vec::new(),
            from_model: false,
            guessing: false,
        };
        session.restart(prompt, settings, kernels)?;
        Ok(session)
    }

    /// Begins again with another prompt, keeping what is computed of their common beginning.
    pub(super) fn restart(
        &mut self,
        prompt: Vec<u32>,
        settings: Settings,
        kernels: Kernels,
    ) -> Result<(), Error> {
        self.sampler = Sampler::new(settings.sampling.clone(), kernels)?;
        self.settings = settings;
        let same = self.tokens.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // The last prompt token is always computed anew: its logits are what the answer needs.
        self.computed = self.pages.truncate(self.computed.min(same).min(prompt.len() - 1));
        (self.reached, self.shared) = (self.computed, self.computed);
        self.prompt = prompt.len();
        self.tokens = prompt;
        (self.tally, self.model_tally) = (Tally::default(), Tally::of_model());
        let tokenizer = self.settings.tokenizer.as_deref();
        let grammar = self.settings.grammar.as_ref();
        self.reins = grammar.map(|grammar| Reins::new(grammar, tokenizer, &self.tokens));
        self.text = TextStream::new(&self.settings, &self.tokens);
        self.state = State::Running;
        self.look();
        Ok(())
    }

    /// Takes over what the session it guesses for has written, keeping what is computed of their
    /// common beginning, and goes on from there.
    pub(super) fn follow(&mut self, tokens: &[u32]) {
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.tokens.truncate(same);
        self.tokens.extend(&tokens[same..]);
        self.prompt = tokens.len();
        self.computed = self.pages.truncate(self.computed.min(same).min(tokens.len() - 1));
        self.reached = self.computed;
        self.look();
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What was written so far.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// Positions whose keys and values are there.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Positions of the prompt that this request did not have to compute, since an earlier one, or
    /// another at the same time, had.
    pub fn shared(&self) -> usize {
        self.shared
    }

    /// How its own guesses did.
    pub fn drafted(&self) -> &Tally {
        &self.tally
    }

    /// How those did that another model made.
    pub fn drafted_by_model(&self) -> &Tally {
        &self.model_tally
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the next step computes its last token and nothing else.
    pub(super) fn writes(&self) -> bool {
        self.state == State::Running && self.computed + 1 == self.tokens.len()
    }

    pub fn end_reason(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Running | State::Paused => None,
        }
    }

    /// Leaves the session out of steps until it is resumed.
    pub fn pause(&mut self) {
        if self.state == State::Running {
            self.state = State::Paused;
        }
    }

    pub fn resume(&mut self) {
        if self.state == State::Paused {
            self.state = State::Running;
        }
    }

    /// Ends the session where it is. Text that was held back is returned.
    pub fn cancel(&mut self) -> Option<Event> {
        match self.state {
            State::Running | State::Paused => Some(self.end(End::Cancelled)),
            State::Ended(_) => None,
        }
    }

    pub(super) fn pages(&self) -> &[u32] {
        self.pages.pages()
    }

    pub(super) fn reserve(&mut self, len: usize) -> bool {
        self.pages.reserve(len)
    }

    /// Gives all its pages up.
    pub(super) fn park(&mut self) {
        self.computed = self.pages.truncate(0);
    }

    /// Looks for pages that hold what it would have to compute.
    pub(super) fn look(&mut self) {
        let before_last = &self.tokens[..self.tokens.len() - 1];
        self.computed = self.pages.find(before_last, self.computed);
        self.shared += self.computed.saturating_sub(self.reached);
        self.reached = self.reached.max(self.computed);
    }

    /// What the session computes next: its last token, or at most `chunk` positions of what is
    /// missing before it; `None` if it does not run, or waits for its prompt's turn.
    pub(super) fn take_turn(&mut self, chunk: usize) -> Option<Range<usize>> {
        self.turn = None;
        self.drafts.clear();
        if self.state != State::Running {
            return None;
        }
        self.look();
        let left = self.tokens.len() - self.computed;
        let take = if left == 1 { 1 } else { left.min(chunk) };
        self.turn = (take > 0).then(|| self.computed..self.computed + take);
        self.turn.clone()
    }

    /// Guesses that have room before the end of the answer and of a context of `context` positions.
    pub(super) fn room_for_drafts(&self, context: usize) -> usize {
        let room = context.saturating_sub(self.tokens.len());
        let left =
            self.settings.max_tokens.map_or(usize::MAX, |max| max - self.answer().len().min(max));
        // The model's own choice is a token too.
        room.min(left.saturating_sub(1))
    }

    /// Whether what it wrote last it has written before, so that it may guess.
    pub(super) fn repeats(&self) -> bool {
        let mut guess = Vec::new();
        propose(&self.tokens, 1, &mut guess);
        !guess.is_empty()
    }

    /// Guesses at most `most` tokens that may come after its last one; or takes what another model
    /// has guessed, if there is anything.
    pub(super) fn draft(&mut self, most: usize, by_model: &[u32], context: usize) {
        let room = self.room_for_drafts(context);
        self.from_model = !by_model.is_empty();
        match self.from_model {
            true => self.drafts.extend(by_model.iter().take(room)),
            false => propose(&self.tokens, most.min(room), &mut self.drafts),
        }
        if !self.pages.reserve(self.tokens.len() + self.drafts.len()) {
            self.drafts.clear();
        }
    }

    pub(super) fn drafts(&self) -> &[u32] {
        &self.drafts
    }

    /// The positions of its turn are computed. Says so, if they are of the prompt and new.
    pub(super) fn computed_to(&mut self, position: usize) -> Option<Event> {
        let news = position > self.reached && position < self.prompt;
        self.computed = position;
        self.reached = self.reached.max(position);
        let lasting = if self.guessing { position.min(self.prompt) } else { position };
        self.pages.register(&self.tokens[..lasting]);
        news.then(|| self.event(What::Prefilled { done: position, total: self.prompt }))
    }

    /// Writes on: a token by the logits behind its last one, and further ones as long as each is
    /// what was guessed, so that the logits behind the guess are those behind the token.
    pub(super) fn write<'a>(
        &mut self,
        logits: impl Iterator<Item = &'a [f32]>,
        events: &mut Vec<Event>,
    ) -> usize {
        let (before, drafted) = (self.tokens.len(), self.drafts.len());
        let mut accepted = 0;
        for behind in logits {
            self.choose(behind, events);
            let guess = self.drafts.get(accepted);
            if self.end_reason().is_some() || guess != self.tokens.last() {
                break;
            }
            accepted += 1;
        }
        let (own, by_model) = match self.from_model {
            true => ((0, 0), (drafted, accepted)),
            false => ((drafted, accepted), (0, 0)),
        };
        self.tally.note(own.0, own.1);
        self.model_tally.note(by_model.0, by_model.1);
        if accepted > 0 {
            self.computed_to(self.computed + accepted);
        }
        self.tokens.len() - before
    }

    /// Draws the next token from its logits and decides whether the answer goes on.
    fn choose(&mut self, logits: &[f32], events: &mut Vec<Event>) {
        let choice = match self.draw(logits) {
            Ok(choice) => choice,
            Err(error) => return events.push(self.end(End::Failed(error))),
        };
        let token = choice.id;
        self.tokens.push(token);
        // A grammar has allowed the end; there is nothing to ignore.
        if (!self.settings.ignore_end || self.reins.is_some()) && self.is_end(token) {
            return events.push(self.end(End::Text));
        }
        let (text, voice, stopped) = match &mut self.text {
            Some(stream) => stream.push(token),
            None => (String::new(), Voice::Answer, false),
        };
        events.push(self.event(What::Token { choice, text, voice }));
        if stopped {
            // The rest of the stop string is not part of the answer.
            self.text = None;
            events.push(self.end(End::Stop));
        } else if self.reins.as_ref().is_some_and(Reins::over) {
            events.push(self.end(End::Text));
        } else if self.settings.max_tokens.is_some_and(|max| self.answer().len() >= max) {
            events.push(self.end(End::Length));
        }
    }

    /// A token that the grammar allows, if there is one, and the grammar's step by it.
    fn draw(&mut self, logits: &[f32]) -> Result<Choice, SampleError> {
        let refused = |error: GrammarError| SampleError::Grammar(error.to_string());
        let position = self.tokens.len() as u64;
        let Some(reins) = &mut self.reins else {
            return self.sampler.sample(logits, &self.tokens, position);
        };
        let mask = reins.mask().map_err(refused)?;
        let choice = self.sampler.sample_among(mask, logits, &self.tokens, position)?;
        reins.accept(self.settings.tokenizer.as_deref(), choice.id).map_err(refused)?;
        Ok(choice)
    }

    fn is_end(&self, token: u32) -> bool {
        self.settings.tokenizer.as_ref().is_some_and(|t| t.is_end(token))
    }

    pub(super) fn end(&mut self, end: End) -> Event {
        let text = self.text.take().map_or(String::new(), TextStream::finish);
        self.state = State::Ended(end.clone());
        self.event(What::Ended { end, text })
    }

    fn event(&self, what: What) -> Event {
        Event { session: self.id, what }
    }
}

/// Tokens to text, held back where a stop string may be coming.
struct TextStream {
    tokenizer: Rc<Tokenizer>,
    detokenizer: Detokenizer,
    channels: Option<Channels>,
    /// Whom the text so far was for.
    voice: Voice,
    stop: StopMatcher,
}

impl TextStream {
    /// `None` without a tokenizer.
    fn new(settings: &Settings, prompt: &[u32]) -> Option<TextStream> {
        let tokenizer = settings.tokenizer.clone()?;
        Some(TextStream {
            detokenizer: Detokenizer::new(&tokenizer, true).show(Rc::clone(&settings.shown)),
            channels: Channels::new(&tokenizer, prompt),
            voice: Voice::Answer,
            stop: StopMatcher::new(settings.stop.iter().cloned()),
            tokenizer,
        })
    }

    /// What may be shown after this token, whom it is for, and whether a stop string is complete.
    fn push(&mut self, token: u32) -> (String, Voice, bool) {
        let mut text = String::new();
        let voice = match &mut self.channels {
            Some(channels) => channels.push(&self.tokenizer, token),
            None => Some(Voice::Answer),
        };
        match voice {
            Some(voice) => {
                self.voice = voice;
                self.detokenizer.push(&self.tokenizer, token, &mut text);
            }
            // A frame ends what it follows, half a character included.
            None => self.detokenizer.finish(&self.tokenizer, &mut text),
        }
        if let Some(call) = self.channels.as_mut().and_then(Channels::take_opened) {
            self.voice = Voice::Call;
            text += &call;
        }
        // What stops an answer is looked for in the answer.
        if self.voice != Voice::Answer {
            return (text, self.voice, false);
        }
        let mut shown = String::new();
        let stopped = self.stop.push(&text, &mut shown);
        (shown, self.voice, stopped)
    }

    /// What is left of the answer. Half a character of anything else is lost.
    fn finish(mut self) -> String {
        let (mut tail, mut shown) = (String::new(), String::new());
        self.detokenizer.finish(&self.tokenizer, &mut tail);
        if self.voice != Voice::Answer {
            tail.clear();
        }
        if !self.stop.push(&tail, &mut shown) {
            self.stop.finish(&mut shown);
        }
        shown
    }
}
