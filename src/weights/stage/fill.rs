//! One run of blocks on its way from disk into one piece of memory.

use crate::host::arena::Region;
use crate::host::drive::{Done, Drive, Fault, Read, Urgency};
use crate::weights::pack::Block;

/// Where the blocks are: the memory is cut, a piece travels with each read, and when all are back
/// it is joined again. While a piece is away nobody here can look at it.
#[derive(Default)]
pub struct Fill {
    ticket: u64,
    /// Address of the first block.
    base: usize,
    block: usize,
    /// By block: what is back, and whether it was read a second time.
    pieces: Vec<Option<Region>>,
    again: Vec<bool>,
    /// What the blocks leave of the memory.
    tail: Option<Region>,
    away: usize,
    trouble: Option<Trouble>,
    given_up: bool,
}

/// Why a run of blocks is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody wanted it any more.
    Dropped,
    /// A block, and what was wrong with it twice.
    Bad { block: usize, fault: Fault },
    /// It took too long.
    Late,
}

impl Fill {
    /// Whether blocks are away that somebody still waits for.
    pub fn comes(&self) -> bool {
        self.away > 0 && !self.given_up
    }

    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Sends for all blocks. `memory` is as long as they are together, or longer.
    pub fn begin(
        &mut self,
        drive: &mut dyn Drive,
        ticket: u64,
        mut memory: Region,
        blocks: impl Iterator<Item = Block>,
        urgency: Urgency,
    ) {
        assert!(self.away == 0, "one run at a time");
        *self = Fill {
            ticket,
            base: memory.as_ptr().addr(),
            pieces: std::mem::take(&mut self.pieces),
            again: std::mem::take(&mut self.again),
            ..Fill::default()
        };
        self.pieces.clear();
        self.again.clear();
        for block in blocks {
            self.block = self.block.max(block.len);
            let into = memory.split_to(block.len);
            drive.read(request(ticket, block, into, urgency));
            self.pieces.push(None);
            self.again.push(false);
            self.away += 1;
        }
        self.tail = Some(memory);
    }

    /// No block that was not sent for yet needs to come.
    pub fn give_up(&mut self, drive: &mut dyn Drive) {
        self.given_up = true;
        drive.give_up(self.ticket);
    }

    /// Takes a block in; one that is not right is read again once. When none is away: the memory,
    /// and whether it holds what it should.
    pub fn take(
        &mut self,
        drive: &mut dyn Drive,
        done: Done,
        block: impl FnOnce(usize) -> Option<Block>,
    ) -> Option<(Region, Result<(), Trouble>)> {
        let Done { ticket, into, outcome } = done;
        assert!(ticket == self.ticket && self.away > 0, "a block that was sent for");
        let i = (into.as_ptr().addr() - self.base).checked_div(self.block).unwrap_or(0);
        if let Err(fault) = outcome {
            let known = if self.again[i] || self.given_up { None } else { block(i) };
            match known {
                Some(block) if fault != Fault::Dropped => {
                    self.again[i] = true;
                    drive.read(request(ticket, block, into, Urgency::Demand));
                    return None;
                }
                _ => {
                    let trouble = match fault {
                        Fault::Dropped => Trouble::Dropped,
                        fault => Trouble::Bad { block: i, fault },
                    };
                    self.trouble.get_or_insert(trouble);
                }
            }
        }
        self.pieces[i] = Some(into);
        self.away -= 1;
        if self.away > 0 {
            return None;
        }
        let pieces = self.pieces.iter_mut().filter_map(Option::take).chain(self.tail.take());
        let whole = pieces.reduce(|whole, piece| match whole.join(piece) {
            Ok(whole) => whole,
            Err(_) => unreachable!("blocks of one run follow each other"),
        })?;
        Some((whole, self.trouble.map_or(Ok(()), Err)))
    }

    /// Blocks that were read twice.
    pub fn reread(&self) -> usize {
        self.again.iter().filter(|again| **again).count()
    }
}

fn request(ticket: u64, block: Block, into: Region, urgency: Urgency) -> Read {
    let Block { file, offset, sum, .. } = block;
    Read { ticket, file, offset, into, sum: Some(sum), urgency }
}
