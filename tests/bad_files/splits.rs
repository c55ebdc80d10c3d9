//! Split GGUF models: found from any part, refused when parts are missing or do not belong
//! together.

use std::fs;
use std::path::PathBuf;

use penstock::host::mapping::Bytes;
use penstock::weights::Gguf;
use tempfile::TempDir;

use crate::gguf_writer::GgufWriter;
use crate::refused;

fn model() -> GgufWriter {
    let mut model = GgufWriter::new().string("general.architecture", "llama");
    for i in 0..5 {
        model = model.f32_tensor(&format!("t{i}"), &[2, 3], &[i as f32; 6]);
    }
    model
}

fn written(parts: &[GgufWriter]) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = GgufWriter::write_parts(parts, folder.path(), "m");
    (folder, paths)
}

#[test]
fn any_part_opens_all() {
    let (_folder, paths) = written(&model().split(3));
    let mut total = 0;
    for path in &paths {
        total += fs::metadata(path).unwrap().len();
    }
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.parts().collect::<Vec<_>>(), paths);
        assert_eq!(gguf.file_bytes(), total);
        assert_eq!(gguf.metadata().string("general.architecture").unwrap(), "llama");
        for i in 0..5 {
            let tensor = gguf.require(&format!("t{i}")).unwrap();
            assert_eq!(tensor.data[..], [(i as f32).to_le_bytes(); 6].concat());
        }
    }
}

#[test]
fn a_split_of_one_is_whole_whatever_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any-name.gguf");
    model().split(1)[0].write(&path);
    assert_eq!(Gguf::open(&path).unwrap().tensors().len(), 5);
}

#[test]
fn parts_that_are_missing_or_renamed() {
    let (_folder, paths) = written(&model().split(3));
    fs::remove_file(&paths[1]).unwrap();
    let said = "has 3 parts, and part 2 is missing";
    refused(Gguf::open(&paths[0]), "m-00001", "metadata key 'split.count'", said);
    refused(Gguf::open(&paths[2]), "m-00003", "'split.count'", "m-00002-of-00003.gguf beside");
    let renamed = paths[0].with_file_name("renamed.gguf");
    fs::rename(&paths[0], &renamed).unwrap();
    let said = "part 1 of 3, so its name must end in -00001-of-00003.gguf";
    refused(Gguf::open(&renamed), "renamed.gguf", "metadata key 'split.no'", said);
    let bytes = Bytes::made(model().split(3)[0].bytes());
    refused(
        Gguf::from_bytes("inside", bytes),
        "inside",
        "'split.count'",
        "only be opened from files",
    );
}

#[test]
fn parts_that_do_not_belong_together() {
    let change = |i: usize, part: GgufWriter| {
        let mut parts = model().split(3);
        parts[i] = part;
        let (folder, paths) = written(&parts);
        (folder, paths[0].clone())
    };
    let part =
        |no: u16, count: u16| GgufWriter::new().u16("split.no", no).u16("split.count", count);
    let cases: Vec<(usize, GgufWriter, &str, &str, &str)> = vec![
        // A part that is a copy, or a link, of another one: no circle, a refusal.
        (
            1,
            model().split(3)[0].clone(),
            "m-00002",
            "'split.no'",
            "is 0, but the file's name says 1",
        ),
        (
            1,
            model().split(3)[2].clone(),
            "m-00002",
            "'split.no'",
            "is 2, but the file's name says 1",
        ),
        (0, model().split(3)[1].clone(), "m-00001", "'split.no'", "name must end in -00002-of"),
        (0, part(3, 3), "m-00001", "'split.no'", "part 3 (counted from 0) of 3 cannot be"),
        (0, part(65535, 65535), "m-00001", "'split.no'", "cannot be"),
        (0, part(0, 65535), "m-00001", "'split.no'", "-00001-of-65535.gguf"),
        (0, GgufWriter::new().u16("split.count", 3), "m-00001", "'split.no'", "is missing"),
        (0, GgufWriter::new().i32("split.count", -3), "m-00001", "'split.count'", "does not fit"),
        (0, GgufWriter::new().string("split.count", "3"), "m-00001", "'split.count'", "an integer"),
        (2, model(), "m-00003", "'split.count'", "this file is whole"),
        (2, model().split(4)[2].clone(), "m-00003", "'split.count'", "is 4, but 3 in another"),
        (2, part(2, 3).i32("split.tensors.count", 9), "m-00003", "tensors.count'", "is 9, but 5"),
        (2, part(2, 3), "m-00001", "tensors.count'", "5 tensors are announced, the parts hold 4"),
        (2, part(2, 3).f32_tensor("t0", &[1], &[0.0]), "m-00003", "tensor 't0'", "is also in"),
    ];
    for (i, writer, file, field, reason) in cases {
        let (_folder, first) = change(i, writer);
        refused(Gguf::open(&first), file, field, reason);
    }
}
