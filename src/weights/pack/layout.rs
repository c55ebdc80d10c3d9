//! Which block lies where: arithmetic on sizes alone.

/// Extents in blocks, blocks in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    block: u64,
    files: usize,
    extents: Vec<At>,
    /// Bytes of blocks in each file, and the number of all blocks.
    ends: Vec<u64>,
    blocks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct At {
    bytes: u64,
    /// The number of its first block.
    first: u64,
    /// What of it comes first in each file begins here.
    starts: Box<[u64]>,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its number among all.
    pub block: u64,
    pub file: usize,
    /// From the first block of its file on.
    pub offset: u64,
    pub len: u64,
}

impl Layout {
    /// Lays out extents of these bytes, none of them 0. `None` beyond any disk.
    pub fn new(
        extents: impl Iterator<Item = Option<u64>>,
        block: u64,
        files: usize,
    ) -> Option<Layout> {
        assert!(block > 0 && files > 0, "checked by who asks");
        let mut layout =
            Layout { block, files, extents: Vec::new(), ends: vec![0; files], blocks: 0 };
        for bytes in extents {
            let bytes = bytes?;
            let first = layout.blocks;
            let count = bytes.div_ceil(block);
            let starts = layout.ends.clone().into();
            layout.extents.push(At { bytes, first, starts });
            // Files take turns to be the first, so that none has the short blocks of all.
            let turn = (layout.extents.len() - 1) as u64 % files as u64;
            for file in 0..files as u64 {
                // Blocks j, j + files, ... of the extent are in this file.
                let j = (file + files as u64 - turn) % files as u64;
                if j < count {
                    let here = (count - 1 - j) / files as u64 + 1;
                    let last = (count - 1 - j).is_multiple_of(files as u64);
                    let short = if last { count.checked_mul(block)? - bytes } else { 0 };
                    let end = &mut layout.ends[file as usize];
                    *end = end.checked_add(here.checked_mul(block)? - short)?;
                }
            }
            layout.blocks = layout.blocks.checked_add(count)?;
        }
        // Offsets are signed in files.
        let bytes = layout.ends.iter().try_fold(0_u64, |sum, &end| sum.checked_add(end))?;
        (bytes < 1 << 62).then_some(layout)
    }

    pub fn block(&self) -> u64 {
        self.block
    }

    pub fn extents(&self) -> usize {
        self.extents.len()
    }

    pub fn extent_bytes(&self, extent: usize) -> u64 {
        self.extents[extent].bytes
    }

    /// Blocks of an extent.
    pub fn blocks(&self, extent: usize) -> u64 {
        self.extents[extent].bytes.div_ceil(self.block)
    }

    /// Blocks of all extents.
    pub fn all_blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of the blocks in each file.
    pub fn ends(&self) -> &[u64] {
        &self.ends
    }

    pub fn bytes(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// Block `number` of an extent.
    pub fn place(&self, extent: usize, number: u64) -> Placed {
        let At { bytes, first, ref starts } = self.extents[extent];
        let file = ((extent as u64 + number) % self.files as u64) as usize;
        Placed {
            block: first + number,
            file,
            offset: starts[file] + number / self.files as u64 * self.block,
            len: self.block.min(bytes - number * self.block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file is filled without a gap and without a byte twice, in the order of blocks.
    #[test]
    fn blocks_go_round_the_files() {
        let sizes = [1, 8, 9, 40, 7, 16, 3, 3, 24];
        for files in 1..=4 {
            for block in [1, 3, 8, 100] {
                let layout = Layout::new(sizes.iter().map(|&n| Some(n)), block, files).unwrap();
                let (mut ends, mut next) = (vec![0; files], 0);
                for (extent, &bytes) in sizes.iter().enumerate() {
                    let mut left = bytes;
                    for number in 0..layout.blocks(extent) {
                        let placed = layout.place(extent, number);
                        let (file, len) = ((extent + number as usize) % files, left.min(block));
                        assert_eq!(placed, Placed { block: next, file, offset: ends[file], len });
                        ends[file] += len;
                        left -= len;
                        next += 1;
                    }
                    assert_eq!(left, 0);
                }
                assert_eq!((layout.ends(), layout.all_blocks()), (&ends[..], next));
                assert_eq!(layout.bytes(), sizes.iter().sum::<u64>());
            }
        }
    }

    #[test]
    fn what_no_disk_holds_is_refused() {
        for bytes in [None, Some(u64::MAX), Some(1 << 62)] {
            assert_eq!(Layout::new([bytes].into_iter(), 4096, 2), None);
        }
    }
}
