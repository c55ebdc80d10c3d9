//! Seeded routing: independent, with favourites, with topics.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// SplitMix64
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Distinct numbers below `n`, ascending.
    pub fn some(&mut self, count: usize, n: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n as u32).collect();
        for at in 0..count {
            let other = at + self.below(n - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Every expert alike.
    Uniform,
    /// Independent tokens; router rows of different size, as `synth --skew 0.5` makes them.
    Skewed,
    /// The r-th busiest expert of a layer is wanted in proportion to 1/r; each of the last
    /// token's experts stays with a chance of 0.35.
    Markov,
    /// What is talked about moves slowly, and from token to token a little.
    Topics,
}

pub const KINDS: [Kind; 4] = [Kind::Uniform, Kind::Skewed, Kind::Markov, Kind::Topics];

/// The experts of each layer of a token.
pub type Token = Vec<Vec<u32>>;

pub struct Model {
    pub layers: usize,
    pub experts: usize,
    pub used: usize,
}

impl Model {
    pub fn tokens(&self, kind: Kind, count: usize, seed: u64) -> Vec<Token> {
        let mut random = Random::new(seed);
        let slabs = self.layers * self.experts;
        let mut normals =
            |scale: f64| -> Vec<f64> { (0..slabs).map(|_| scale * random.normal()).collect() };
        let (size, fixed) = (normals(0.5), normals(0.6));
        let (mut slow, mut fast) = (normals(0.8), normals(0.7));
        let mut last: Token = vec![Vec::new(); self.layers];
        let mut token = |_| {
            for (layer, last) in last.iter_mut().enumerate() {
                let first = layer * self.experts;
                let mut wish: Vec<(f64, u32)> = (0..self.experts as u32)
                    .map(|expert| {
                        let slab = first + expert as usize;
                        let wish = match kind {
                            Kind::Uniform => random.unit(),
                            Kind::Skewed => size[slab].exp() * random.normal(),
                            Kind::Markov => {
                                let stays = last.contains(&expert) && random.unit() < 0.35;
                                // Each layer has its own favourites. The smallest of these
                                // exponential times comes first.
                                let rank = (expert as usize + 7 * layer) % self.experts + 1;
                                let time = -(1.0 - random.unit()).ln() * rank as f64;
                                if stays { 1.0 } else { -time }
                            }
                            Kind::Topics => {
                                step(&mut slow[slab], 0.8, 200.0, &mut random);
                                step(&mut fast[slab], 0.7, 2.0, &mut random);
                                fixed[slab] + slow[slab] + fast[slab] + 0.6 * random.normal()
                            }
                        };
                        (wish, expert)
                    })
                    .collect();
                wish.sort_by(|a, b| b.0.total_cmp(&a.0));
                *last = wish[..self.used].iter().map(|(_, expert)| *expert).collect();
                last.sort_unstable();
            }
            last.clone()
        };
        (0..count).map(&mut token).collect()
    }
}

/// A wandering value that keeps its spread and is forgotten after some `memory` tokens.
fn step(value: &mut f64, spread: f64, memory: f64, random: &mut Random) {
    let keep = (-1.0 / memory).exp();
    *value = keep * *value + (1.0 - keep * keep).sqrt() * spread * random.normal();
}

/// Sessions that are at different places of the text, one token of each in every step.
pub fn together(tokens: &[Token], sessions: usize) -> Vec<Token> {
    let each = tokens.len() / sessions;
    (0..each).map(|at| union((0..sessions).map(|session| &tokens[session * each + at]))).collect()
}

/// What tokens need in one step.
pub fn union<'a>(tokens: impl Iterator<Item = &'a Token>) -> Token {
    let mut all: Token = Vec::new();
    for token in tokens {
        all.resize(token.len(), Vec::new());
        all.iter_mut().zip(token).for_each(|(all, layer)| all.extend(layer));
    }
    for layer in &mut all {
        layer.sort_unstable();
        layer.dedup();
    }
    all
}
