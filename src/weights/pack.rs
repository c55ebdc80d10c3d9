//! A model's panels on the disk, as compute reads them: made once from its source, beside which
//! they lie and without which they are of no use (shapes, tokenizer, norms and biases are there).
//!
//! ```text
//! preamble    64 bytes: magic, version, which file of how many, sums of what follows
//! header      JSON: the source's fingerprint, and what is where
//! sums        of every block, 8 bytes each
//! trunk       every matrix that is no routed expert's, in the order a step uses it
//! slabs       layer by layer, expert by expert: gate, up, down
//! ```
//!
//! Trunk matrices and slabs are *extents*: each begins at a multiple of 4 KiB and is filled up to
//! one with zeros; inside, gate, up and down begin at multiples of 64 bytes. An extent is read in
//! blocks (1 MiB unless the packer was told otherwise) of which the last is shorter, and every
//! block has its sum. Blocks are numbered through, from the first of the trunk to the last slab's
//! last. Of a pack in several files, block `j` of extent `e` lies in file `(e + j) % files`, behind
//! the blocks of that file with smaller numbers.
//!
//! Nothing that a header says of places is trusted: [`Pack::open`] lays the model out anew and
//! refuses a header that says otherwise.

mod build;
mod error;
mod fingerprint;
mod header;
mod layout;
mod verify;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use build::{Built, Each, Far, Hands, Job};
pub use error::Error;
pub use fingerprint::Fingerprint;
pub use header::VERSION;
pub use verify::{Damage, Place};

use super::Matrix;
use crate::host::direct::SECTOR;
use crate::math::Format;
use layout::Layout;

/// Bytes of a block unless the packer was told otherwise.
pub const BLOCK: usize = 1 << 20;
/// The largest that a block may be.
pub const LARGEST_BLOCK: usize = 16 << 20;

/// What is to be packed, or read from a pack.
#[derive(Clone, Debug)]
pub struct Contents {
    pub trunk: Vec<Matrix>,
    /// The layers that have experts.
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub struct Layer {
    /// Its number among all layers of the model.
    pub index: usize,
    /// Gate, up and down of each.
    pub experts: Vec<[Matrix; 3]>,
}

/// What a pack says of one trunk matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkShape {
    pub name: String,
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    /// Bytes of its panels; its extent has zeros after them.
    pub bytes: usize,
}

/// The slabs of one layer, all of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerShape {
    pub index: usize,
    pub experts: usize,
    /// Bytes of a slab, a multiple of 4096.
    pub slab_bytes: usize,
    /// Gate, up and down.
    pub parts: [PartShape; 3],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartShape {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    /// Where in a slab its panels lie.
    pub range: Range<usize>,
}

/// One read: a piece of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Which of [`Pack::files`].
    pub file: u32,
    pub offset: u64,
    /// A multiple of 4096.
    pub len: usize,
    pub sum: u64,
}

/// An opened pack that belongs to its model.
#[derive(Debug)]
pub struct Pack {
    files: Vec<PathBuf>,
    /// Where in each file the blocks begin.
    data: Vec<u64>,
    sums: Vec<u64>,
    shape: Shape,
    layout: Layout,
}

impl Pack {
    /// The pack at `path` (the first file of several), if it is whole and made from this source.
    pub fn open(path: &Path, contents: &Contents, source: &Fingerprint) -> Result<Pack, Error> {
        header::open(path, contents, source)
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Bytes of a block that is not the last of its extent.
    pub fn block(&self) -> usize {
        self.layout.block() as usize
    }

    /// Bytes of all extents together.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// In the order of [`Contents::trunk`].
    pub fn trunk(&self) -> &[TrunkShape] {
        &self.shape.trunk
    }

    /// In the order of [`Contents::layers`].
    pub fn layers(&self) -> &[LayerShape] {
        &self.shape.layers
    }

    /// The blocks of a trunk matrix, in order.
    ///
    /// # Panics
    /// If there is no such matrix.
    pub fn trunk_blocks(&self, matrix: usize) -> Blocks<'_> {
        assert!(matrix < self.shape.trunk.len(), "matrix {matrix} of the trunk");
        self.blocks_of(matrix)
    }

    /// The blocks of an expert's slab, in order. Layers are counted as [`Pack::layers`] has them.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn slab_blocks(&self, layer: usize, expert: usize) -> Blocks<'_> {
        assert!(expert < self.shape.layers[layer].experts, "expert {expert} of layer {layer}");
        self.blocks_of(self.shape.slab(layer) + expert)
    }

    fn blocks_of(&self, extent: usize) -> Blocks<'_> {
        Blocks { pack: self, extent, left: 0..self.layout.blocks(extent) }
    }
}

/// The blocks of an extent.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    pack: &'a Pack,
    extent: usize,
    left: Range<u64>,
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let Pack { layout, data, sums, .. } = self.pack;
        let number = self.left.next()?;
        let place = layout.place(self.extent, number);
        Some(Block {
            file: place.file as u32,
            offset: data[place.file] + place.offset,
            len: place.len as usize,
            sum: sums[place.block as usize],
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.left.end - self.left.start) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Blocks<'_> {}

/// What the extents are, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    trunk: Vec<TrunkShape>,
    layers: Vec<LayerShape>,
}

/// Panels begin at multiples of this in a slab, as they do in memory.
const LINE: usize = 64;

impl Shape {
    fn new(contents: &Contents) -> Result<Shape, Error> {
        let trunk = contents.trunk.iter().map(|matrix| TrunkShape {
            name: matrix.name().into(),
            format: matrix.format(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            bytes: matrix.panel_bytes(),
        });
        let layers = contents.layers.iter().map(LayerShape::new).collect::<Result<_, _>>()?;
        Ok(Shape { trunk: trunk.collect(), layers })
    }

    /// Bytes of the extents; `None` beyond any disk.
    fn extents(&self) -> impl Iterator<Item = Option<u64>> {
        let whole = |bytes: usize| Some(bytes.checked_next_multiple_of(SECTOR)? as u64);
        let trunk = self.trunk.iter().map(move |matrix| whole(matrix.bytes));
        let slabs = self
            .layers
            .iter()
            .flat_map(|layer| std::iter::repeat_n(Some(layer.slab_bytes as u64), layer.experts));
        trunk.chain(slabs)
    }

    /// The extent of a layer's first slab.
    fn slab(&self, layer: usize) -> usize {
        let before = self.layers[..layer].iter().map(|layer| layer.experts);
        self.trunk.len() + before.sum::<usize>()
    }
}

impl LayerShape {
    fn new(layer: &Layer) -> Result<LayerShape, Error> {
        let Some(first) = layer.experts.first() else {
            return Err(Error::NoExperts { layer: layer.index });
        };
        let like = |a: &Matrix, b: &Matrix| {
            (a.format(), a.rows(), a.cols()) == (b.format(), b.rows(), b.cols())
        };
        for (expert, matrices) in layer.experts.iter().enumerate() {
            if let Some((matrix, other)) = matrices.iter().zip(first).find(|(a, b)| !like(a, b)) {
                let show = |m: &Matrix| format!("{} [{}, {}]", m.format(), m.rows(), m.cols());
                let (found, first) = (show(matrix), show(other));
                return Err(Error::Uneven { layer: layer.index, expert, found, first });
            }
        }
        let mut end = Some(0_usize);
        let parts = first.each_ref().map(|matrix| {
            let start = end.and_then(|end| end.checked_next_multiple_of(LINE));
            end = start.and_then(|start| start.checked_add(matrix.panel_bytes()));
            let range = start.unwrap_or(usize::MAX)..end.unwrap_or(usize::MAX);
            PartShape { format: matrix.format(), rows: matrix.rows(), cols: matrix.cols(), range }
        });
        let slab_bytes =
            end.and_then(|end| end.checked_next_multiple_of(SECTOR)).ok_or(Error::TooLarge)?;
        Ok(LayerShape { index: layer.index, experts: layer.experts.len(), slab_bytes, parts })
    }
}

/// The matrices of an extent, and where in it their panels begin.
struct Extent<'a> {
    parts: Vec<(&'a Matrix, u64)>,
}

impl Contents {
    /// Extent `number` of a pack of this shape.
    fn extent(&self, shape: &Shape, number: usize) -> Extent<'_> {
        let Some(mut expert) = number.checked_sub(self.trunk.len()) else {
            return Extent { parts: vec![(&self.trunk[number], 0)] };
        };
        for (layer, shape) in self.layers.iter().zip(&shape.layers) {
            if let Some(matrices) = layer.experts.get(expert) {
                let starts = shape.parts.iter().map(|part| part.range.start as u64);
                return Extent { parts: matrices.iter().zip(starts).collect() };
            }
            expert -= layer.experts.len();
        }
        unreachable!("extents are counted by the same shape")
    }
}
