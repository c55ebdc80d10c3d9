//! An engine whose experts stream from a pack.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::step::Store;
use super::{Engine, Error, Options};
use crate::host::arena::Arena;
use crate::host::mover::{Depth, Setup};
use crate::host::ring::Source;
use crate::model::Model;
use crate::shard::Lead;
use crate::weights::Matrix;
use crate::weights::home::Home;
use crate::weights::pack::Pack;
use crate::weights::residency::{History, Policy};
use crate::weights::stage::{self, Loss, LostTrunk, Notice, Room, Staging, Trouble};
use crate::weights::trace::{Header, Recorder};

/// What streams, and in how much room.
pub struct Stream {
    pub pack: Pack,
    pub room: Room,
    pub policy: Policy,
    /// Experts of the next layer that are sent for, for each that a token uses, while a step waits
    /// for those of this one. 0: none.
    pub ahead: f32,
    /// Reads under way at once.
    pub depth: usize,
    /// How long a step waits for an expert.
    pub patience: Duration,
    /// What was used before, to begin with.
    pub history: Option<History>,
}

/// How long a step waits for an expert unless it is told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

impl Engine {
    /// An engine on the shards that `lead` leads, which reads experts when they are needed. The
    /// trunk is sent for at once; [`Engine::ready`] waits for it.
    pub fn streamed(
        model: Rc<Model>,
        options: Options,
        mut lead: Lead,
        stream: Stream,
    ) -> Result<Engine, Error> {
        let contents = model.parts.contents();
        let unread = contents.trunk.iter().filter(|matrix| !matrix.is_settled());
        let trunk = Arena::reserve(unread.map(stage::room_of).sum())?;
        let slots = Arena::reserve(stream.room.slots * stage::slot_bytes(&stream.pack))?;
        // A lead that has a drive already keeps it: a simulated one.
        if lead.crew().own().drive.is_none() {
            let files = stream.pack.files().iter().map(|path| {
                let open = Source::open(path);
                open.map_err(|error| Error::Open { path: path.clone(), error })
            });
            let setup = Setup {
                files: files.collect::<Result<_, Error>>()?,
                arenas: vec![trunk.clone(), slots.clone()],
                depth: Depth::of(1),
            };
            lead.equip(setup, stream.depth)?;
        }
        let Stream { pack, room, policy, ahead, patience, history, .. } = stream;
        let mut staging = Staging::new(pack, &slots, room, policy, patience);
        let Some(drive) = &mut lead.crew().own().drive else { unreachable!("just equipped") };
        staging.fetch_trunk(&mut **drive, &contents.trunk, &trunk);
        if let Some(history) = history {
            // One that does not fit this model is of no use, and of no harm.
            let _ = staging.recall(&mut **drive, &history);
        }
        let store = Store { staging: Some(staging), ahead, ..Store::new(Home::of(trunk)) };
        Engine::with(model, options, lead, store)
    }

    /// Waits for what every token needs.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let Engine { lead, store, .. } = self;
        let Some(staging) = &mut store.staging else { return Ok(()) };
        lead.begin();
        let outcome = loop {
            let Some(drive) = &mut lead.crew().own().drive else { break Ok(()) };
            match staging.trunk_left(&mut **drive) {
                Ok(0) => break Ok(()),
                Ok(_) => lead.breathe().await,
                Err(LostTrunk { name, trouble }) => {
                    let what = format!("{name}, which every token needs,");
                    break Err(Error::Lost(sentence(staging.pack(), &what, trouble)));
                }
            }
        };
        lead.rest();
        outcome
    }

    /// Begins to fill the memory for experts, where they stream, before anybody needs them.
    pub fn fill_up(&mut self) {
        let Engine { lead, store, .. } = self;
        if let (Some(staging), Some(drive)) = (&mut store.staging, &mut lead.crew().own().drive) {
            staging.fill_up(&mut **drive);
        }
    }

    /// Between steps: takes in what has come from disk. `false`: nothing more will.
    pub async fn tend(&mut self) -> bool {
        let Engine { lead, store, .. } = self;
        let (Some(staging), Some(drive)) = (&mut store.staging, &mut lead.crew().own().drive)
        else {
            return false;
        };
        staging.take_in(&mut **drive);
        let more = !drive.may_rest();
        lead.breathe().await;
        more
    }

    /// Lets the reactor look around, as between the parts of a step.
    pub async fn breathe(&mut self) {
        self.lead.breathe().await;
    }

    /// Who is told what there is to say about the disk, while a step waits for it.
    pub fn on_notice(&mut self, listener: impl FnMut(Notice) + 'static) {
        self.listener = Box::new(listener);
    }

    /// Records the routing of all steps to come.
    pub fn record(&mut self, path: &Path, name: &str) -> Result<(), Error> {
        let failed = |error| Error::Trace { path: path.into(), error };
        let config = &self.model.config;
        let Some(shape) = &config.experts else { return Err(failed(no_experts())) };
        let contents = self.model.parts.contents();
        let slab = |experts: &[[Matrix; 3]]| -> u64 {
            let bytes = |expert: &[Matrix; 3]| expert.iter().map(|m| m.panel_bytes() as u64).sum();
            experts.iter().map(bytes).max().unwrap_or(0)
        };
        let header = Header {
            model: name.into(),
            layers: contents.layers.len() as u32,
            experts: shape.count as u32,
            used: shape.used as u32,
            slab_bytes: contents.layers.iter().map(|layer| slab(&layer.experts)).max().unwrap_or(0),
        };
        self.store.recorder = Some(Recorder::create(path, header).map_err(failed)?);
        Ok(())
    }

    /// Whether all that was to be recorded is written.
    pub fn recorded(&mut self) -> Result<(), io::Error> {
        self.store.untold.take().map_or(Ok(()), Err)
    }

    /// How often each expert was used, for the next start.
    pub fn history(&self) -> Option<History> {
        Some(self.store.staging.as_ref()?.residency().history())
    }

    /// What brings the experts, where they stream.
    pub fn staging(&self) -> Option<&Staging> {
        self.store.staging.as_ref()
    }
}

fn no_experts() -> io::Error {
    io::Error::other("the model has no experts, so there is no routing to record")
}

/// What became of an expert.
pub fn lost(pack: &Pack, loss: Loss) -> String {
    let what = format!("expert {} of layer {}", loss.expert, loss.layer);
    sentence(pack, &what, loss.trouble)
}

fn sentence(pack: &Pack, what: &str, trouble: Trouble) -> String {
    let path = pack.files().first().map(|path| path.display().to_string()).unwrap_or_default();
    let why = match trouble {
        Trouble::Bad { block, fault } => format!("block {block} of it was read twice: {fault}"),
        Trouble::Late => "the disk did not answer in time".into(),
        Trouble::Dropped => "it was given up".into(),
    };
    format!(
        "{what} cannot be read from {path} ({why}); `penstock pack --verify` tells what is damaged, \
         and a pack that is deleted is made anew"
    )
}
