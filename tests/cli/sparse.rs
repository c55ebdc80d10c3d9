//! A model much larger than memory: a file of 58 GB that is nearly all hole.

use std::fs::{self, File};
use std::path::Path;
use std::rc::Rc;

use penstock::engine::{Engine, Error, Options};
use penstock::math::Format;
use penstock::model::Model;
use penstock::shard::now;
use penstock::weights::Source;

use crate::gguf_writer::{GgufWriter, type_id};
use crate::run;

const LAYERS: usize = 8;
const EXPERTS: usize = 512;
const USED: usize = 2;
const HIDDEN: usize = 4096;
const WIDTH: usize = 2048;

/// One expert's gate, up and down.
const EXPERT_BYTES: usize = 3 * HIDDEN * WIDTH / 256 * 144;

/// Writes the header and leaves the weights a hole, which reads as zeros.
fn write(path: &Path) {
    let key = |name: &str| format!("qwen3moe.{name}");
    let mut file = GgufWriter::new()
        .string("general.architecture", "qwen3moe")
        .u32(&key("block_count"), LAYERS as u32)
        .u32(&key("context_length"), 4096)
        .u32(&key("embedding_length"), HIDDEN as u32)
        .u32(&key("feed_forward_length"), WIDTH as u32)
        .u32(&key("expert_feed_forward_length"), WIDTH as u32)
        .u32(&key("expert_count"), EXPERTS as u32)
        .u32(&key("expert_used_count"), USED as u32)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("attention.key_length"), 64)
        .u32(&key("attention.value_length"), 64)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6);
    let mut tensors = vec![
        ("token_embd.weight".to_string(), Format::Q8_0, vec![64, HIDDEN]),
        ("output_norm.weight".into(), Format::F32, vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, format, shape) in [
            ("attn_norm", Format::F32, vec![HIDDEN]),
            ("attn_q", Format::Q8_0, vec![4 * 64, HIDDEN]),
            ("attn_k", Format::Q8_0, vec![64, HIDDEN]),
            ("attn_v", Format::Q8_0, vec![64, HIDDEN]),
            ("attn_output", Format::Q8_0, vec![HIDDEN, 4 * 64]),
            ("attn_q_norm", Format::F32, vec![64]),
            ("attn_k_norm", Format::F32, vec![64]),
            ("ffn_norm", Format::F32, vec![HIDDEN]),
            ("ffn_gate_inp", Format::F32, vec![EXPERTS, HIDDEN]),
            ("ffn_gate_exps", Format::Q4K, vec![EXPERTS, WIDTH, HIDDEN]),
            ("ffn_up_exps", Format::Q4K, vec![EXPERTS, WIDTH, HIDDEN]),
            ("ffn_down_exps", Format::Q4K, vec![EXPERTS, HIDDEN, WIDTH]),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), format, shape));
        }
    }
    let mut offset = 0_u64;
    for (name, format, shape) in tensors {
        let (cols, rows) = shape.split_last().unwrap();
        let bytes = format.row_bytes(*cols).unwrap() * rows.iter().product::<usize>();
        let dimensions: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        file = file.raw_tensor(name.as_bytes(), &dimensions, type_id(format), vec![]).at(offset);
        offset += (bytes as u64).next_multiple_of(32);
    }
    let header = file.bytes();
    fs::write(path, &header).unwrap();
    let data = (header.len() as u64).next_multiple_of(32);
    File::options().write(true).open(path).unwrap().set_len(data + offset).unwrap();
}

/// Bytes of a mapped file that this process has touched.
fn touched(path: &Path) -> usize {
    let name = path.display().to_string();
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    let mut kib = 0;
    for line in maps.lines() {
        match line.strip_prefix("Rss:") {
            Some(rss) if ours => {
                kib += rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
            }
            Some(_) => {}
            None if line.contains('-') && line.contains(" r") => ours = line.ends_with(&name),
            None => {}
        }
    }
    kib * 1024
}

#[test]
fn a_model_larger_than_memory_opens_at_once_and_only_what_a_token_needs_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.gguf");
    write(&path);
    let name = path.display().to_string();

    let object = run(&["inspect", &name, "--json"]).json();
    let size = object["file_bytes"].as_u64().unwrap();
    assert!(size > 50 << 30, "{size}");
    assert_eq!(object["bytes_per_expert"], EXPERT_BYTES);
    let source = Source::open(&path).unwrap();
    let model = Rc::new(Model::open(&source).unwrap());
    let opened = touched(&path);
    assert!(opened < 4 << 20, "opening touched {opened} bytes");

    let options = Options { context: Some(16), ..Options::default() };
    let mut engine = Engine::new(model, options).unwrap();
    let mut rows = 0;
    now(engine.logits(&[1], |_, row| {
        rows += 1;
        assert!(row.iter().all(|&x| x == 0.0), "a hole is zeros");
        Ok::<(), Error>(())
    }))
    .unwrap();
    assert_eq!(rows, 1);
    let home = engine.weights_arena();
    let settled = home.len() - home.left();
    let experts = LAYERS * USED * EXPERT_BYTES;
    // The experts chosen, and the trunk.
    assert!(settled > experts, "{settled} of {experts}");
    assert!(settled < experts + experts / 2 + (256 << 20), "{settled} where {experts} were chosen");
    // What was read of the file is let go of.
    let left = touched(&path);
    assert!(left < 64 << 20, "{left} bytes of the file are still mapped in");
}
