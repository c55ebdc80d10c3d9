use super::*;

#[test]
fn what_was_read_is_held() {
    let shape = Shape { layers: 2, experts: 4, slots: 4 };
    let mut residency = Residency::new(shape, Policy::default());
    let (mut vain, mut out) = (Vec::new(), Vec::new());
    for step in 0..3 {
        residency.begin_step();
        for layer in 0..2 {
            residency.enter(layer, &[1, 3], &mut vain);
            out.clear();
            residency.demand(layer, &[1, 3], &mut out);
            let what = if step == 0 { What::Read } else { What::Held };
            assert!(out.iter().all(|grant| grant.what == what), "{out:?}");
            residency.release(layer, &[1, 3]);
        }
    }
    assert_eq!((residency.counters().hits, residency.counters().misses), (8, 4));
}
