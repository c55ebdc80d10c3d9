//! What a plan is made from: the model's sizes, the memory there is, and how fast the host is.

use crate::host::memory;
use crate::math::KvFormat;
use crate::model::config::Config;
use crate::model::parts::Parts;
use crate::model::{KvShape, Model};
use crate::weights::Matrix;
use crate::weights::home::room_of;

/// All that a plan needs to know.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The model, for sentences.
    pub name: String,
    pub config: Config,
    pub weights: Weights,
    /// `None`: whatever the budget says is there.
    pub free: Option<Free>,
    pub rates: Rates,
}

/// How large the weights are in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// All that is no routed expert, as panels.
    pub trunk: u64,
    /// The part of it that is only looked up, a row for each token.
    pub embedding: u64,
    /// Layers that have routed experts: how many, and the bytes of the largest one's slab.
    pub layers: Vec<Slabs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slabs {
    pub experts: usize,
    pub bytes: u64,
}

/// How much memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// The control group's limit.
    pub limit: Option<u64>,
    /// What can be had beyond what this process has.
    pub available: u64,
    /// What it has.
    pub own: u64,
}

/// How fast the host is. `None`: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Bytes per second, of the disk that the pack is on.
    pub disk: Option<f64>,
    /// Bytes per second that all cores together read from memory.
    pub memory: Option<f64>,
    /// Operations per second of one core.
    pub arithmetic: Option<f64>,
}

impl Facts {
    /// What is known of an opened model; nothing of its weights is read.
    pub fn of(name: &str, model: &Model) -> Facts {
        Facts {
            name: name.into(),
            config: model.config.clone(),
            weights: Weights::of(&model.parts),
            free: Free::read(),
            rates: Rates::default(),
        }
    }

    /// Bytes of a page whose keys and values are kept in this.
    pub fn page_bytes(&self, kv: KvFormat) -> u64 {
        KvShape::new(&self.config, kv).page_bytes()
    }

    /// What the program itself takes: see the test that measures it.
    pub(super) fn program(&self, cores: usize) -> u64 {
        let slabs = self.weights.slabs() as u64 * SLAB;
        let layers = self.config.layers.len() as u64 * LAYER;
        let norms = self.config.layers.len() as u64 * 4 * self.config.hidden as u64 * 4;
        let vocabulary = self.config.vocab as u64 * TOKEN;
        PROGRAM + slabs + layers + norms + vocabulary + cores as u64 * SHARD
    }
}

/// The program, with its code, before it knows a model.
const PROGRAM: u64 = 24 << 20;
/// A shard: its stack, its reactor, its rings.
const SHARD: u64 = 2 << 20;
/// What is known of a token, of an expert, of a layer.
const TOKEN: u64 = 512;
const SLAB: u64 = 2048;
const LAYER: u64 = 16 << 10;

impl Weights {
    pub fn of(parts: &Parts) -> Weights {
        let mut weights = Weights::default();
        parts.each_weight(|weight, routed| {
            if !routed {
                weights.trunk += room_of(weight) as u64;
            }
        });
        let (embedding, output) = (&parts.embedding, &parts.output.weight);
        if !std::ptr::eq(embedding.data().as_ptr(), output.data().as_ptr()) {
            weights.embedding = room_of(embedding) as u64;
            weights.trunk += weights.embedding;
        }
        for layer in &parts.layers {
            let matrices: Vec<&Matrix> = layer.experts().collect();
            let slab = |of: &[&Matrix]| of.iter().map(|m| room_of(m) as u64).sum();
            if let Some(bytes) = matrices.chunks_exact(3).map(slab).max() {
                weights.layers.push(Slabs { experts: matrices.len() / 3, bytes });
            }
        }
        weights
    }

    /// How many there are.
    pub fn slabs(&self) -> usize {
        self.layers.iter().map(|layer| layer.experts).sum()
    }

    pub fn largest_slab(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).max().unwrap_or(0)
    }

    /// Bytes of all of them.
    pub fn slabs_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.experts as u64 * layer.bytes).sum()
    }
}

impl Free {
    /// What this host and this process's control group have now.
    pub fn read() -> Option<Free> {
        let available = memory::available();
        let own = memory::resident().map_or(0, |resident| resident.total - resident.files);
        (available != u64::MAX).then(|| Free { limit: memory::limit(), available, own })
    }

    /// The most that this process can have.
    pub fn most(&self) -> u64 {
        self.limit.unwrap_or(u64::MAX).min(self.available.saturating_add(self.own))
    }

    /// Whether so much can be had. What is available changes by the moment, and a part of what the
    /// kernel does not call so is this program's: a plan for a whole group's limit is no mistake.
    pub(super) fn bears(&self, bytes: u64) -> bool {
        let available = self.available.saturating_add(self.own);
        let most = available.saturating_add(available / 64).saturating_add(64 << 20);
        bytes <= self.limit.unwrap_or(u64::MAX).min(most)
    }

    /// What is left beside something else that takes so many bytes.
    pub fn beside(self, bytes: u64) -> Free {
        Free {
            limit: self.limit.map(|limit| limit.saturating_sub(bytes)),
            available: self.available.saturating_sub(bytes),
            own: self.own,
        }
    }

    /// What a plan takes if nobody says how much: the most less a margin, for what the kernel
    /// counts and what others begin.
    pub fn budget(&self) -> u64 {
        let most = self.most();
        most - (most / 32).clamp(32 << 20, 512 << 20).min(most)
    }
}
