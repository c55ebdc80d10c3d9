//! Floor 5: the plan, which is every count and byte decided before anything is read.
//!
//! Owns the division of a memory budget among trunk, pages, scratch, the program itself and slab
//! slots (`Plan`), what it refuses and with which number instead (`refusal`), and how fast the
//! result may be expected to be (`speed`). Pure arithmetic: what it knows of the model and the
//! machine is handed in as [`Facts`]. Reads no weight and reserves nothing. Imports `model`, `math`
//! (what pages are kept in), `host` (how much memory there is), `base`.
//!
//! ```text
//! budget = trunk | pages of KV | scratch of a step | the program | slab slots: kept, in transit
//! ```

mod facts;
mod refusal;
mod scratch;
pub mod speed;

pub use facts::{Facts, Free, Rates, Slabs, Weights};
pub use refusal::{Enough, Refusal};

use serde::{Serialize, Serializer};

use crate::base::limits::PAGE;
use crate::host::direct::SECTOR;
use crate::math::KvFormat;

/// What the user wants. `None`: the plan chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Bytes that the process may have in memory, all together.
    pub memory: Option<u64>,
    /// Positions to have room for, of all sessions together.
    pub context: Option<usize>,
    /// Prompt tokens that enter one step.
    pub prefill_chunk: Option<usize>,
    /// Sessions that are in one step at most.
    pub sessions: usize,
    /// Shards that compute.
    pub cores: usize,
    /// Whether the logits behind every prompt token are wanted, not only behind the last.
    pub every_logit: bool,
    /// What keys and values are kept in.
    pub kv: KvFormat,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask {
            memory: None,
            context: None,
            prefill_chunk: None,
            sessions: 1,
            cores: 1,
            every_logit: false,
            kv: KvFormat::F32,
        }
    }
}

/// Where every byte of a budget goes. The parts are at most the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub budget: u64,
    /// Weights that every token needs, as panels, and the embedding.
    pub trunk: u64,
    /// Positions there is room for, of all sessions together, and the pages for them.
    pub context: usize,
    pub pages: usize,
    pub pages_bytes: u64,
    /// What keys and values are kept in there.
    #[serde(serialize_with = "name_of")]
    pub kv: KvFormat,
    /// What a step works in.
    pub scratch: u64,
    /// The program itself: code, tokenizer, tables, rings, the kernel's tables of our memory.
    pub program: u64,
    /// Places for slabs, of which some are for slabs on their way. As many as there are slabs
    /// where everything fits.
    pub slots: usize,
    pub transit: usize,
    pub slot_bytes: u64,
    /// Slabs the model has.
    pub slabs: usize,
    /// Prompt tokens that enter one step.
    pub prefill_chunk: usize,
    pub sessions: usize,
    pub cores: usize,
    /// Whether every slab has its slot: nothing is read twice.
    pub fits: bool,
}

/// A context that is worth planning for, and a chunk: below, the plan gives up rather.
const LEAST_CONTEXT: usize = 512;
const LEAST_CHUNK: usize = 16;
/// Prompt tokens of a step where nothing is read from the disk: more gain nothing.
const RESIDENT_CHUNK: usize = 512;
/// … and where experts stream and no rate is known, so that a sweep is for many tokens.
const STREAMED_CHUNK: usize = 2048;
/// More would stall those who decode for seconds.
const MOST_CHUNK: usize = 4096;
/// Of what is left beside trunk and program, at most this part is for pages that nobody asked
/// for, and for a larger chunk: every slot less costs every token.
const PART: u64 = 8;
/// Slots for slabs on their way, beyond which more only take the place of kept ones.
const MOST_TRANSIT: usize = 96;
/// What an arena is a multiple of.
const HUGE: u64 = 2 << 20;

impl Plan {
    /// Divides the budget. What is refused is refused with the number that would do.
    pub fn new(ask: &Ask, facts: &Facts) -> Result<Plan, Refusal> {
        let budget = ask.memory.or_else(|| Some(facts.free?.budget())).unwrap_or(u64::MAX / 4);
        let division = Division { ask, facts };
        let plan = division.of(budget).ok_or_else(|| division.refusal(budget))?;
        match facts.free {
            Some(free) if !free.bears(plan.total()) => {
                Err(Refusal::Host { asked: plan.total(), free: free.most(), limit: free.limit })
            }
            _ => Ok(plan),
        }
    }

    /// The smallest budget that is accepted.
    pub fn least(ask: &Ask, facts: &Facts) -> u64 {
        let division = Division { ask, facts };
        let (context, chunk) = (division.least_context(), division.least_chunk());
        division.enough(context, chunk, division.least_slots())
    }

    /// The smallest budget with which everything fits, in the least context and chunk.
    pub fn enough(ask: &Ask, facts: &Facts) -> u64 {
        let division = Division { ask, facts };
        let (context, chunk) = (division.least_context(), division.least_chunk());
        division.enough(context, chunk, facts.weights.slabs())
    }

    pub fn slots_bytes(&self) -> u64 {
        self.slots as u64 * self.slot_bytes
    }

    /// Experts of a window: two have room among the slots for those on their way.
    pub fn window(&self) -> usize {
        match self.fits {
            true => self.slots.max(1),
            false => (self.transit / 2).max(1),
        }
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.trunk + self.pages_bytes + self.scratch + self.program + self.slots_bytes()
    }

    /// The share of all slabs that is kept beside those on their way.
    pub fn share(&self) -> f64 {
        match self.fits {
            true => 1.0,
            false => (self.slots - self.transit) as f64 / self.slabs.max(1) as f64,
        }
    }
}

fn name_of<S: Serializer>(kv: &KvFormat, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kv.name())
}

/// What everything but the slots takes.
struct Fixed {
    trunk: u64,
    pages_bytes: u64,
    scratch: u64,
    program: u64,
}

impl Fixed {
    fn sum(&self) -> u64 {
        self.trunk + self.pages_bytes + self.scratch + self.program
    }
}

struct Division<'a> {
    ask: &'a Ask,
    facts: &'a Facts,
}

impl Division<'_> {
    fn of(&self, budget: u64) -> Option<Plan> {
        let (mut context, mut chunk) = (self.least_context(), self.least_chunk());
        let slabs = self.facts.weights.slabs();
        let left = budget.checked_sub(self.enough(context, chunk, self.least_slots()))?;
        // Larger while that takes a part of what is left; what was asked for stays as it is.
        let most = left / PART;
        context = self.context_within(self.pages_bytes(context) + most);
        let all = |context, chunk| self.enough(context, chunk, slabs) <= budget;
        let resident =
            self.chunks(RESIDENT_CHUNK.min(context)).rev().find(|&chunk| all(context, chunk));
        match resident {
            Some(largest) => {
                chunk = largest;
                let over = budget - self.enough(context, chunk, slabs);
                let wider = self.context_within(self.pages_bytes(context) + over / 2);
                // Tables grow with the context too.
                context = if all(wider, chunk) { wider } else { context };
            }
            None => {
                let least = self.fixed(context, chunk).scratch;
                let wanted = self.streamed_chunk(budget).min(context);
                let fits = |&chunk: &usize| self.fixed(context, chunk).scratch <= least + most;
                chunk = self.chunks(wanted).rev().find(fits).unwrap_or(chunk);
                if self.enough(context, chunk, self.least_slots()) > budget {
                    (context, chunk) = (self.least_context(), self.least_chunk());
                }
            }
        }
        let left = budget - self.fixed(context, chunk).sum();
        let slots = ((left / self.slot_cost()).min(slabs as u64)) as usize;
        let Fixed { trunk, pages_bytes, scratch, program } = self.fixed(context, chunk);
        let fits = slots == slabs;
        Some(Plan {
            budget,
            trunk,
            context,
            pages: context.div_ceil(PAGE),
            pages_bytes,
            kv: self.ask.kv,
            scratch,
            program: program + slots as u64 * (self.slot_cost() - self.slot_bytes()),
            slots,
            transit: if fits { 0 } else { self.transit(slots) },
            slot_bytes: self.slot_bytes(),
            slabs,
            prefill_chunk: chunk,
            sessions: self.ask.sessions,
            cores: self.ask.cores,
            fits,
        })
    }

    /// Slots for slabs on their way: a quarter of them until there are many, and two tokens'
    /// experts at least, so that one's can be computed while the next one's come.
    fn transit(&self, slots: usize) -> usize {
        let least = self.least_slots();
        (slots / 4).min(MOST_TRANSIT).max(least).min(slots)
    }

    /// Two of the experts that a token goes to in a layer, or all there are.
    fn least_slots(&self) -> usize {
        let used = self.facts.config.experts.as_ref().map_or(0, |experts| experts.used);
        (2 * used).min(self.facts.weights.slabs())
    }

    fn trained(&self) -> usize {
        self.facts.config.context.saturating_mul(self.ask.sessions.max(1))
    }

    fn least_context(&self) -> usize {
        let each = self.facts.config.context.min(LEAST_CONTEXT);
        self.ask.context.unwrap_or(each * self.ask.sessions.max(1)).max(1)
    }

    fn least_chunk(&self) -> usize {
        self.ask.prefill_chunk.unwrap_or(LEAST_CHUNK).max(1)
    }

    /// The context whose pages take so many bytes, if nobody asked for another.
    fn context_within(&self, bytes: u64) -> usize {
        if self.ask.context.is_some() {
            return self.least_context();
        }
        let pages = bytes / self.facts.page_bytes(self.ask.kv).max(1);
        let positions = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(PAGE);
        positions.min(self.trained()).max(self.least_context())
    }

    /// Chunks to choose from, ascending: the one that was asked for, or doubled ones.
    fn chunks(&self, most: usize) -> impl DoubleEndedIterator<Item = usize> {
        let (least, asked) = (self.least_chunk(), self.ask.prefill_chunk.is_some());
        (0..usize::BITS).map(move |i| least << i.min(20)).take(match asked {
            true => 1,
            false => (most.max(least) / least).ilog2() as usize + 1,
        })
    }

    /// The chunk that takes as long to compute as what is missing takes to be swept from the disk.
    fn streamed_chunk(&self, budget: u64) -> usize {
        let Some(tokens) = speed::sweep_tokens(self.facts, self.ask.cores, self.missing(budget))
        else {
            return STREAMED_CHUNK;
        };
        (tokens.max(1.0).min(MOST_CHUNK as f64) as usize)
            .next_power_of_two()
            .clamp(RESIDENT_CHUNK, MOST_CHUNK)
    }

    /// The share of the slabs that a budget leaves out, about.
    fn missing(&self, budget: u64) -> f64 {
        let fixed = self.fixed(self.least_context(), self.least_chunk()).sum();
        let slots = budget.saturating_sub(fixed) / self.slot_cost();
        1.0 - (slots as f64 / self.facts.weights.slabs().max(1) as f64).min(1.0)
    }

    fn slot_bytes(&self) -> u64 {
        self.facts.weights.largest_slab().next_multiple_of(SECTOR as u64)
    }

    /// A slot, and what the kernel keeps of where it lies.
    fn slot_cost(&self) -> u64 {
        (self.slot_bytes() + tables(self.slot_bytes())).max(1)
    }

    fn pages_bytes(&self, context: usize) -> u64 {
        (context.div_ceil(PAGE) as u64).saturating_mul(self.facts.page_bytes(self.ask.kv))
    }

    fn fixed(&self, context: usize, chunk: usize) -> Fixed {
        let Division { ask, facts } = self;
        let trunk = facts.weights.trunk.next_multiple_of(HUGE);
        let pages_bytes = self.pages_bytes(context).next_multiple_of(HUGE);
        // The arena of the slots ends with a huge page too.
        let program = facts.program(ask.cores) + tables(trunk + pages_bytes) + HUGE;
        let scratch = scratch::bytes(&facts.config, ask, context, chunk);
        Fixed { trunk, pages_bytes, scratch, program }
    }

    /// The budget that these make.
    fn enough(&self, context: usize, chunk: usize, slots: usize) -> u64 {
        self.fixed(context, chunk).sum().saturating_add(slots as u64 * self.slot_cost())
    }

    /// What to say where `budget` is too small.
    fn refusal(&self, budget: u64) -> Refusal {
        let (context, chunk) = (self.least_context(), self.least_chunk());
        let slots = self.least_slots();
        let enough = self.enough(context, chunk, slots);
        let smaller = |context: usize, chunk: usize| enough - self.enough(context, chunk, slots);
        let each = self.facts.config.context.min(LEAST_CONTEXT) * self.ask.sessions.max(1);
        let small = context.min(each);
        Refusal::Budget {
            model: self.facts.name.clone(),
            budget,
            fixed: self.fixed(context, chunk).sum(),
            enough,
            context: small,
            saved_by_context: smaller(small, chunk),
            chunk: chunk.min(LEAST_CHUNK),
            saved_by_chunk: smaller(context, chunk.min(LEAST_CHUNK)),
        }
    }
}

/// What the kernel takes to know where so many bytes of memory are: 8 for each 4 KiB. It sets
/// that aside for huge pages too, for the day when it has to split one.
fn tables(bytes: u64) -> u64 {
    bytes.div_ceil(512)
}
