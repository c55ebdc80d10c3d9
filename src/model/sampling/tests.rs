//! Stages, draws and refusals of the sampler, by hand-worked examples.

use super::*;

fn kernels() -> Kernels {
    Kernels::new(crate::math::IsaChoice::Auto).unwrap()
}

fn sampler(change: impl FnOnce(&mut SamplingParams)) -> Sampler {
    let mut params = SamplingParams::default();
    change(&mut params);
    Sampler::new(params, kernels()).unwrap()
}

fn ids(sampler: &mut Sampler, logits: &[f32], n: u64) -> Vec<u32> {
    (0..n).map(|at| sampler.sample(logits, &[], at).unwrap().id).collect()
}

#[test]
fn greedy_takes_the_highest_and_of_equals_the_lowest() {
    let mut s = sampler(|p| p.temperature = 0.0);
    assert_eq!(s.sample(&[1.0, 3.0, 3.0, f32::NEG_INFINITY], &[], 0).unwrap().id, 1);
    assert_eq!(s.sample(&[-0.0, 0.0], &[], 0).unwrap().id, 0);
}

/// Logits are looked at in runs; where a run begins makes no difference.
#[test]
fn runs_find_what_a_look_at_each_would() {
    let naive = |logits: &[f32]| {
        let mut best = None;
        for (id, &logit) in logits.iter().enumerate() {
            if logit > best.map_or(f32::NEG_INFINITY, |at: usize| logits[at]) {
                best = Some(id);
            }
        }
        best.map(|at| at as u32).ok_or(SampleError::Nothing)
    };
    let unfit = |logits: &[f32]| {
        let at = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY);
        at.map_or(Ok(()), |at| Err(SampleError::NotANumber(at as u32)))
    };
    let borders = |len: usize| {
        let near = |at: usize| at.saturating_sub(2)..at + 2;
        let all = near(0).chain(near(16)).chain(near(RUN)).chain(near(2 * RUN)).chain(near(len));
        all.filter(move |at| *at < len).collect::<Vec<_>>()
    };
    let lens = [0, 1, 15, 16, 17, RUN - 1, RUN, RUN + 1, RUN + 17, 2 * RUN, 2 * RUN + 1, 3 * RUN];
    for len in lens {
        let plain: Vec<f32> = (0..len).map(|i| -2.0 + (i as f32 * 0.7).sin()).collect();
        let mut all = vec![plain.clone(), vec![-0.0; len], vec![f32::NEG_INFINITY; len]];
        let borders = borders(len);
        for (i, &one) in borders.iter().enumerate() {
            for &other in &borders[i..] {
                // Equals, also of either sign of zero and with nothing beside them.
                for (a, b, rest) in [
                    (3.0, 3.0, None),
                    (-0.0, 0.0, None),
                    (0.0, -0.0, None),
                    (-1e30, -1e30, Some(f32::NEG_INFINITY)),
                ] {
                    let mut logits = rest.map_or(plain.clone(), |rest| vec![rest; len]);
                    (logits[one], logits[other]) = (a, b);
                    all.push(logits);
                }
            }
        }
        for logits in all {
            assert_eq!(all_numbers(&logits), Ok(()));
            assert_eq!(highest(&logits), naive(&logits), "{len} logits");
        }
        let wrong = [f32::NAN, -f32::NAN, f32::INFINITY];
        for (i, &one) in borders.iter().enumerate() {
            for (j, &other) in borders[i..].iter().enumerate() {
                let mut logits = plain.clone();
                logits[one] = wrong[(i + j) % 3];
                logits[other] = wrong[(i + j + 1) % 3];
                assert_eq!(all_numbers(&logits), unfit(&logits), "{len} logits");
            }
        }
    }
}

#[test]
fn draws_depend_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut a = sampler(|p| p.seed = 5);
    let forwards = ids(&mut a, &logits, 64);
    let mut backwards: Vec<u32> =
        (0..64).rev().map(|at| a.sample(&logits, &[9; 9], at).unwrap().id).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_ne!(forwards, ids(&mut sampler(|p| p.seed = 6), &logits, 64));
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.0f32, 0.7, -1.2, 0.3, f32::NEG_INFINITY];
    let mut expected = logits.to_vec();
    kernels().softmax(&mut expected);
    let n = 40_000;
    let mut counts = [0.0; 5];
    for id in ids(&mut sampler(|p| p.seed = 1), &logits, n) {
        counts[id as usize] += 1.0;
    }
    assert_eq!(counts[4], 0.0);
    let chi: f64 = (0..4)
        .map(|i| (i, f64::from(expected[i]) * n as f64))
        .map(|(i, e)| (counts[i] - e).powi(2) / e)
        .sum();
    // 3 degrees of freedom: above 21 once in 10,000 seeds, and this seed is fixed.
    assert!(chi < 21.0, "{chi}");
}

fn reachable(change: impl Fn(&mut SamplingParams), logits: &[f32]) -> Vec<u32> {
    let mut found = ids(&mut sampler(change), logits, 4000);
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn each_limit_keeps_what_it_says() {
    // Probabilities 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 1, 3.
    let logits = [0.25f32.ln(), 0.125f32.ln(), 0.5f32.ln(), 0.125f32.ln()];
    assert_eq!(reachable(|_| (), &logits), [0, 1, 2, 3]);
    assert_eq!(reachable(|p| p.top_k = 1, &logits), [2]);
    assert_eq!(reachable(|p| p.top_k = 3, &logits), [0, 1, 2]);
    assert_eq!(reachable(|p| p.top_k = 99, &logits), [0, 1, 2, 3]);
    assert_eq!(reachable(|p| p.top_p = 0.4, &logits), [2]);
    assert_eq!(reachable(|p| p.top_p = 0.7, &logits), [0, 2]);
    assert_eq!(reachable(|p| p.top_p = 1e-9, &logits), [2]);
    assert_eq!(reachable(|p| p.min_p = 0.4, &logits), [0, 2]);
    assert_eq!(reachable(|p| p.min_p = 1.0, &logits), [2]);
    // Top-p sees the probabilities that top-k leaves: 2/3 and 1/3.
    let both = |p: &mut SamplingParams| (p.top_k, p.top_p) = (2, 0.6);
    assert_eq!(reachable(both, &logits), [2]);
    // A tiny temperature is greedy without overflow.
    assert_eq!(reachable(|p| p.temperature = 1e-30, &[1e30, 1.0, 2e30]), [2]);
}

/// The stages from 3 on as the door file puts them, with everything sorted.
fn naive(logits: &[f32], p: &SamplingParams, position: u64) -> u32 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled: Vec<f32> = logits.iter().map(|l| (l - peak) / p.temperature).collect();
    let by_falling =
        |a: &usize, b: &usize| scaled[*b].partial_cmp(&scaled[*a]).unwrap().then(a.cmp(b));
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(by_falling);
    if p.top_k > 0 {
        ids.truncate(p.top_k);
    }
    ids.sort();
    let mut weights: Vec<f32> = ids.iter().map(|&id| scaled[id]).collect();
    kernels().softmax(&mut weights);
    let mut whole: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let mut ranked: Vec<(usize, f32)> = ids.into_iter().zip(weights).collect();
    ranked.sort_by(|a, b| by_falling(&a.0, &b.0));
    if p.top_p < 1.0 || p.min_p > 0.0 {
        if p.top_p < 1.0 {
            let mut sum = 0.0;
            let reached = ranked.iter().position(|(_, w)| {
                sum += w;
                sum >= p.top_p
            });
            ranked.truncate(reached.map_or(ranked.len(), |at| at + 1));
        }
        let floor = p.min_p * ranked[0].1;
        let below = ranked.iter().skip(1).position(|(_, w)| *w < floor);
        ranked.truncate(below.map_or(ranked.len(), |at| at + 1));
        whole = ranked.iter().map(|(_, w)| f64::from(*w)).sum();
    }
    let mark = uniform(p.seed, position) * whole;
    let mut sum = 0.0;
    for (id, weight) in &ranked {
        sum += f64::from(*weight);
        if mark < sum {
            return *id as u32;
        }
    }
    ranked.iter().rfind(|(_, w)| *w > 0.0).unwrap().0 as u32
}

#[test]
fn sorting_less_changes_nothing() {
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    for size in [1, 2, 17, FIRST - 1, FIRST, FIRST + 1, 3 * FIRST + 5, 20_000] {
        for shape in 0..6 {
            let logits: Vec<f32> = (0..size)
                .map(|id| match shape {
                    0 => random() * 20.0 - 10.0,
                    1 => (random() * 6.0).floor() - 3.0,
                    2 => 1.5,
                    3 if random() < 0.7 && id > 0 => f32::NEG_INFINITY,
                    3 => random() * 4.0,
                    // Both zeros are the same logit.
                    4 => [0.0, -0.0, -1.0][(random() * 3.0) as usize],
                    _ => -(random().max(1e-6).ln()) * 8.0,
                })
                .collect();
            for (top_k, top_p, min_p) in [
                (0, 1.0, 0.0),
                (0, 0.95, 0.0),
                (0, 1e-9, 0.0),
                (0, 0.999_999_94, 0.0),
                (0, 1.0, 0.05),
                (0, 1.0, 1.0),
                (0, 0.9, 1e-4),
                (40, 0.95, 0.0),
                (FIRST + 100, 1.0, 0.0),
                (FIRST + 100, 0.999, 1e-6),
            ] {
                let mut s = sampler(|p| {
                    (p.top_k, p.top_p, p.min_p) = (top_k, top_p, min_p);
                    (p.temperature, p.seed) = (0.7, size as u64);
                });
                for at in 0..4 {
                    let expected = naive(&logits, s.params(), at);
                    let got = s.sample(&logits, &[], at).unwrap().id;
                    assert_eq!(got, expected, "{size} {shape} {top_k} {top_p} {min_p} {at}");
                }
            }
            let mut s = sampler(|p| p.logprobs = Some(20));
            let (_, top) = s.sample(&logits, &[], 0).unwrap().logprobs.unwrap();
            let mut ids: Vec<u32> = (0..size as u32).collect();
            let at = |id: u32| logits[id as usize];
            ids.sort_by(|a, b| at(*b).partial_cmp(&at(*a)).unwrap().then(a.cmp(b)));
            ids.truncate(20);
            assert_eq!(top.iter().map(|l| l.id).collect::<Vec<_>>(), ids, "{size} {shape}");
        }
    }
}

#[test]
fn bias_and_penalties_change_logits_as_written() {
    let mut s = sampler(|p| {
        p.temperature = 0.0;
        p.logit_bias.insert(0, 2.5);
        p.logit_bias.insert(1, f32::NEG_INFINITY);
        p.logit_bias.insert(999, 1.0);
    });
    assert_eq!(s.sample(&[1.0, 9.0, 3.0], &[], 0).unwrap().id, 0);

    let mut s = sampler(|p| (p.temperature, p.repetition_penalty) = (0.0, 2.0));
    assert_eq!(s.sample(&[3.0, 2.0], &[0], 0).unwrap().id, 1);
    assert_eq!(s.sample(&[-1.0, -1.5], &[0], 0).unwrap().id, 1);
    assert_eq!(s.sample(&[3.0, 2.0], &[7], 0).unwrap().id, 0);

    let mut s = sampler(|p| (p.temperature, p.frequency_penalty) = (0.0, 0.4));
    assert_eq!(s.sample(&[3.0, 2.0], &[0, 0], 0).unwrap().id, 0);
    assert_eq!(s.sample(&[3.0, 2.0], &[0, 0, 0], 0).unwrap().id, 1);

    let mut s = sampler(|p| (p.temperature, p.presence_penalty) = (0.0, 1.1));
    assert_eq!(s.sample(&[3.0, 2.0], &[0, 0, 0], 0).unwrap().id, 1);
    let mut s = sampler(|p| {
        (p.temperature, p.presence_penalty, p.penalty_window) = (0.0, 1.1, Some(2));
    });
    assert_eq!(s.sample(&[3.0, 2.0], &[0, 5, 6], 0).unwrap().id, 0);
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = [1.0f32, 3.0, -200.0, 2.0];
    let mut s = sampler(|p| {
        (p.temperature, p.logprobs) = (0.0, Some(2));
        p.logit_bias.insert(2, 1000.0);
    });
    let choice = s.sample(&logits, &[], 0).unwrap();
    let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    let expected = |id: usize| (f64::from(logits[id]) - sum.ln()) as f32;
    let (chosen, top) = choice.logprobs.unwrap();
    assert_eq!((choice.id, chosen.id), (2, 2));
    assert!((chosen.logprob - expected(2)).abs() < 1e-4);
    assert_eq!(top.iter().map(|l| l.id).collect::<Vec<_>>(), [1, 3]);
    for l in top {
        assert!((l.logprob - expected(l.id as usize)).abs() < 1e-6);
    }
}

#[test]
fn broken_logits_are_errors() {
    let mut s = sampler(|_| ());
    assert_eq!(s.sample(&[], &[], 0), Err(SampleError::Empty));
    assert_eq!(s.sample(&[0.0, f32::NAN], &[], 0), Err(SampleError::NotANumber(1)));
    assert_eq!(s.sample(&[f32::INFINITY], &[], 0), Err(SampleError::NotANumber(0)));
    assert_eq!(s.sample(&[f32::NEG_INFINITY; 3], &[], 0), Err(SampleError::Nothing));
}

#[test]
fn bad_parameters_are_named() {
    let bad = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        Sampler::new(params, kernels()).err().unwrap().to_string()
    };
    assert_eq!(bad(|p| p.temperature = -1.0), "temperature is -1, but must be between 0 and 100");
    assert!(bad(|p| p.temperature = f32::NAN).starts_with("temperature"));
    assert!(bad(|p| p.top_p = 0.0).starts_with("top_p"));
    assert!(bad(|p| p.min_p = 1.5).starts_with("min_p"));
    assert!(bad(|p| p.repetition_penalty = 0.0).starts_with("repetition_penalty"));
    assert!(bad(|p| p.frequency_penalty = f32::INFINITY).starts_with("frequency_penalty"));
    assert!(bad(|p| p.logprobs = Some(21)).starts_with("logprobs"));
    assert!(bad(|p| p.logit_bias.extend([(3, f32::NAN)])).starts_with("logit_bias"));
}

#[test]
fn the_logarithm_is_exact_to_f32() {
    let mut x = 1.0f32;
    while x > 1e-44 {
        let exact = f64::from(x).ln();
        assert!((f64::from(ln(x)) - exact).abs() <= exact.abs() * 1e-7, "{x}");
        x *= 0.937;
    }
    assert_eq!(ln(1.0), 0.0);
    assert_eq!(ln(0.0), f32::NEG_INFINITY);
}

fn stopped(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
    let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()));
    let mut shown: Vec<String> = vec![];
    for piece in pieces {
        let mut out = String::new();
        matcher.push(piece, &mut out);
        shown.push(out);
    }
    let mut out = String::new();
    matcher.finish(&mut out);
    shown.push(out);
    (shown, matcher.stopped())
}

#[test]
fn a_stop_string_ends_the_text_across_pieces() {
    let (shown, ended) = stopped(&["END"], &["abc E", "N", "D more", "never"]);
    assert_eq!((shown, ended), (["abc ", "", "", "", ""].map(String::from).to_vec(), true));
    let (shown, ended) = stopped(&["END"], &["E", "EN", "ENX", "é"]);
    assert_eq!((shown, ended), (["", "E", "ENENX", "é", ""].map(String::from).to_vec(), false));
    let (shown, _) = stopped(&["\n\n"], &["a\n", "b\n", "\nc"]);
    assert_eq!(shown.concat(), "a\nb");
    let (shown, _) = stopped(&["aab"], &["aa", "ab"]);
    assert_eq!(shown.concat(), "a");
    let (shown, ended) = stopped(&[""], &["a", "b"]);
    assert_eq!((shown.concat().as_str(), ended), ("ab", false));
    let (shown, _) = stopped(&["€x", "¢"], &["₫€", "y", "€", "x"]);
    assert_eq!(shown, ["₫", "€y", "", "", ""]);
}

#[test]
fn any_cutting_of_the_text_gives_the_same() {
    let mut state = 1u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    for _ in 0..3000 {
        let text: String = (0..30).map(|_| ['a', 'b', 'é'][random(3) as usize]).collect();
        let stops: Vec<String> = (0..1 + random(3))
            .map(|_| (0..1 + random(4)).map(|_| ['a', 'b', 'é'][random(3) as usize]).collect())
            .collect();
        // The naive answer: feed characters until the text so far ends in a stop string.
        let mut naive = text.clone();
        'search: for (at, c) in text.char_indices() {
            let so_far = &text[..at + c.len_utf8()];
            if let Some(longest) =
                stops.iter().filter(|s| so_far.ends_with(s.as_str())).map(String::len).max()
            {
                naive = so_far[..so_far.len() - longest].to_owned();
                break 'search;
            }
        }
        let chars: Vec<char> = text.chars().collect();
        let mut matcher = StopMatcher::new(stops.clone());
        let (mut out, mut at) = (String::new(), 0);
        while at < chars.len() {
            let end = (at + random(5) as usize).min(chars.len());
            let piece: String = chars[at..end].iter().collect();
            matcher.push(&piece, &mut out);
            at = end;
        }
        matcher.finish(&mut out);
        assert_eq!(out, naive, "{text} {stops:?}");
    }
}

#[test]
fn a_mask_leaves_only_its_tokens_and_changes_nothing_else() {
    let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let (mut all, mut few) = (Mask::default(), Mask::default());
    all.set(&[u32::MAX; 4]);
    [3, 40, 41, 99, 1000].into_iter().for_each(|id| few.allow(id));
    let forbid = |p: &mut SamplingParams| {
        // No stage lifts what the mask has put down.
        p.logit_bias = [(0, 1e6), (1, 1e6), (41, f32::NEG_INFINITY)].into();
        (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) = (0.1, -50.0, -50.0);
    };
    let changes: [fn(&mut SamplingParams); 4] = [
        |_| (),
        |p| p.temperature = 0.0,
        |p| p.top_k = 2,
        |p| (p.top_p, p.logprobs) = (0.5, Some(3)),
    ];
    for change in changes {
        for seed in 0..40 {
            let mut s = sampler(|p| {
                change(p);
                p.seed = seed;
            });
            let plain = s.sample(&logits, &[7, 8], seed).unwrap();
            assert_eq!(s.sample_among(Some(&all), &logits, &[7, 8], seed).unwrap(), plain);
            let chosen = s.sample_among(Some(&few), &logits, &[7, 8], seed).unwrap();
            assert!(few.allows(chosen.id));
            // What is told of the model is the model's own.
            let tops = |c: &Choice| c.logprobs.as_ref().map(|l| l.1.clone());
            assert_eq!(tops(&chosen), tops(&plain));
            let mut s = sampler(|p| {
                change(p);
                forbid(p);
            });
            let chosen = s.sample_among(Some(&few), &logits, &[0, 1, 2], seed).unwrap();
            assert!([3, 40, 99].contains(&chosen.id));
        }
    }
    let mut s = sampler(|_| ());
    let none = s.sample_among(Some(&Mask::default()), &logits, &[], 0);
    assert_eq!(none, Err(SampleError::Nothing));
    few.forbid(3);
    few.forbid(5000);
    assert!(!few.allows(3) && few.allows(40) && !few.allows(5000));
}
