//! Packs: what is read is what was packed, and what is damaged is named.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use penstock::base::sum::sum;
use penstock::math::Format;
use penstock::model::Model;
use penstock::model::synth::{self, Recipe};
use penstock::weights::pack::{
    BLOCK, Block, Built, Contents, Damage, Error, Far, Fingerprint, Hands, Job, Pack, Place,
};
use penstock::weights::{Matrix, Source};

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// An opened model: what is to be packed of it, and what it is known by.
struct Opened {
    contents: Contents,
    fingerprint: Fingerprint,
}

fn open(path: &Path) -> Opened {
    let source = Source::open(path).unwrap();
    let model = Model::open(&source).unwrap();
    Opened { contents: model.parts.contents(), fingerprint: Fingerprint::of(&source).unwrap() }
}

/// Writes a small random model.
fn write(path: &Path, shape: &str, quant: Format, seed: u64) -> Opened {
    let recipe = Recipe::new(shape, quant, None, 0.0, seed).unwrap();
    fs::write(path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    open(path)
}

/// Work for three threads at once.
fn each(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    let all = || {
        while let i = next.fetch_add(1, Ordering::Relaxed)
            && i < pieces
        {
            work(i);
        }
    };
    thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(all))));
}

fn pack_with(
    model: &Opened,
    files: &[PathBuf],
    block: usize,
    progress: &mut dyn FnMut(Far) -> bool,
) -> Result<Built, Error> {
    let job = Job { contents: &model.contents, source: &model.fingerprint, files, block };
    // Few pieces at a time, so that there are several times.
    job.run(&mut Hands { count: 1, each: &mut each }, progress)
}

fn pack(model: &Opened, files: &[PathBuf], block: usize) -> Pack {
    pack_with(model, files, block, &mut |_| true).unwrap();
    reopen(model, &files[0]).unwrap()
}

fn reopen(model: &Opened, path: &Path) -> Result<Pack, Error> {
    Pack::open(path, &model.contents, &model.fingerprint)
}

fn verify(pack: &Pack) -> Vec<Damage> {
    pack.verify(&mut Hands { count: 3, each: &mut each }, &mut |_| true).unwrap()
}

/// The bytes of some blocks, whose sums are right.
fn read(pack: &Pack, blocks: impl ExactSizeIterator<Item = Block>) -> Vec<u8> {
    let mut out = Vec::new();
    let count = blocks.len();
    for (i, block) in blocks.enumerate() {
        assert!(block.offset % 4096 == 0 && block.len % 4096 == 0 && block.len > 0);
        assert!(block.len == pack.block() || i + 1 == count && block.len < pack.block());
        let mut bytes = vec![0; block.len];
        let file = File::open(&pack.files()[block.file as usize]).unwrap();
        file.read_exact_at(&mut bytes, block.offset).unwrap();
        assert_eq!(sum(&bytes), block.sum);
        out.extend(bytes);
    }
    out
}

fn panels(matrix: &Matrix) -> Vec<u8> {
    let mut bytes = vec![0; matrix.panel_bytes()];
    matrix.pack(0..matrix.panel_count(), &mut bytes);
    bytes
}

#[track_caller]
fn holds(pack: &Pack, model: &Opened, what: &str) {
    let Contents { trunk, layers } = &model.contents;
    assert_eq!((pack.trunk().len(), pack.layers().len()), (trunk.len(), layers.len()), "{what}");
    for (i, (shape, matrix)) in pack.trunk().iter().zip(trunk).enumerate() {
        let bytes = read(pack, pack.trunk_blocks(i));
        assert_eq!(bytes.len(), shape.bytes.next_multiple_of(4096));
        assert!(bytes[..shape.bytes] == panels(matrix), "{what}: {}", matrix.name());
        assert!(bytes[shape.bytes..].iter().all(|&b| b == 0));
    }
    for (l, (shape, layer)) in pack.layers().iter().zip(layers).enumerate() {
        assert_eq!((shape.index, shape.experts), (layer.index, layer.experts.len()));
        for (e, matrices) in layer.experts.iter().enumerate() {
            let bytes = read(pack, pack.slab_blocks(l, e));
            assert_eq!(bytes.len(), shape.slab_bytes);
            let mut end = 0;
            for (part, matrix) in shape.parts.iter().zip(matrices) {
                assert!(part.range.start.is_multiple_of(64) && part.range.start >= end);
                assert!(bytes[end..part.range.start].iter().all(|&b| b == 0));
                assert!(bytes[part.range.clone()] == panels(matrix), "{what}: layer {l}, {e}");
                end = part.range.end;
            }
            assert!(bytes[end..].iter().all(|&b| b == 0));
        }
    }
    let damages = verify(pack);
    assert!(damages.is_empty(), "{what}: {damages:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn what_is_read_is_what_compute_packs() {
    let folder = tempfile::tempdir().unwrap();
    let out = [folder.path().join("p.penstock")];
    for shape in synth::ALL {
        for quant in [Format::Q4K, Format::BF16] {
            let name = format!("tiny-{}", shape.name);
            let model = write(&folder.path().join("m.gguf"), &name, quant, 0);
            holds(&pack(&model, &out, BLOCK), &model, &format!("{name}, {quant}"));
        }
    }
    for name in [
        "gguf/gptoss_mxfp4.gguf",
        "gguf/dsv3_groups.gguf",
        "gguf/qwen2moe_shared.gguf",
        "families/dsv3_fp8",
        "families/gptoss_mxfp4",
        "families/llama_yarn",
    ] {
        let model = open(&reference(name));
        holds(&pack(&model, &out, 4096), &model, name);
    }
    assert_eq!(names(folder.path()), ["m.gguf", "p.penstock"]);
}

/// However a pack is cut into blocks and files, it holds the same; and twice the same is made.
#[test]
fn blocks_and_files_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&folder.path().join("m.gguf"), "tiny", Format::Q6K, 0);
    let (near, far) = (folder.path(), folder.path().join("other drive"));
    fs::create_dir(&far).unwrap();
    let files = [near.join("a"), far.join("b"), near.join("c")];
    for count in 1..=3 {
        for block in [4096, 3 * 4096, BLOCK, 16 << 20] {
            let files = &files[..count];
            let made = pack(&model, files, block);
            assert_eq!(made.files().len(), count);
            holds(&made, &model, &format!("{count} files, blocks of {block}"));
            let contents = |files: &[PathBuf]| -> Vec<Vec<u8>> {
                files.iter().map(|file| fs::read(file).unwrap()).collect()
            };
            let before = contents(files);
            let sizes = before.iter().map(|bytes| bytes.len() as u64).collect::<Vec<_>>();
            let blocks: u64 = made.bytes();
            let apart = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
            assert!(sizes.iter().sum::<u64>() > blocks);
            assert!(count == 1 || block > BLOCK || apart <= 2 * BLOCK as u64, "{sizes:?}");
            pack(&model, files, block);
            assert!(contents(files) == before);
        }
    }
    // A link to the first file will do.
    let link = far.join("link");
    std::os::unix::fs::symlink(&files[0], &link).unwrap();
    assert_eq!(reopen(&model, &link).unwrap().files().len(), 3);
    // What belongs to another pack is not taken for a part of this one.
    pack(&model, &files, BLOCK);
    let middle = fs::read(&files[1]).unwrap();
    pack(&model, &files, 4096);
    fs::write(&files[1], middle).unwrap();
    let error = reopen(&model, &files[0]).unwrap_err();
    assert!(matches!(error, Error::OtherPart { .. }), "{error}");
    pack(&model, &files, 4096);
    let error = reopen(&model, &files[2]).unwrap_err().to_string();
    assert!(error.contains("file 3 of a pack in several: name the first one (a)"), "{error}");
}

/// Changes one byte, or those that are there.
fn change(path: &Path, at: u64, change: impl Fn(&mut u8)) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    change(&mut byte[0]);
    file.write_all_at(&byte, at).unwrap();
}

fn flip(path: &Path, at: u64) {
    change(path, at, |byte| *byte ^= 0x10);
}

/// Each damage has a sentence of its own, which names the file.
#[test]
fn ten_damages_ten_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let source = at("m.gguf");
    let model = write(&source, "tiny", Format::Q4K, 0);
    let other = write(&at("other.gguf"), "tiny-mixtral-8x7b", Format::Q4K, 1);
    let files = [at("p.penstock"), at("p.2")];
    let made = pack(&model, &files, 4096);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let first = &files[0];
    let len = whole[0].len() as u64;
    let header = u64::from_le_bytes(whole[0][24..32].try_into().unwrap());
    let sums = (64 + header).next_multiple_of(4096);
    let trunk = made.trunk_blocks(1).next().unwrap();
    let slab = made.slab_blocks(1, 5).nth(2).unwrap();
    let name = made.trunk()[1].name.clone();

    let cut = |len: u64| {
        let first = first.clone();
        move || OpenOptions::new().write(true).open(&first).unwrap().set_len(len).unwrap()
    };
    let says = |damage: &dyn Fn(), words: &str| -> String {
        for (file, bytes) in files.iter().zip(&whole) {
            fs::write(file, bytes).unwrap();
        }
        damage();
        let now = Fingerprint::of(&Source::open(&source).unwrap()).unwrap();
        let sentence = match Pack::open(first, &model.contents, &now) {
            Err(error) => error.to_string(),
            Ok(pack) => {
                let damages = verify(&pack);
                assert_eq!(damages.len(), 1, "{damages:?}");
                damages[0].to_string()
            }
        };
        assert!(sentence.contains("/p.") && sentence.contains(words), "{words}: {sentence}");
        sentence
    };
    let renew = |seconds: u64| {
        let file = OpenOptions::new().write(true).open(&source).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(seconds)).unwrap();
    };
    let mut sentences = vec![
        says(&cut(40), "cut short: it has 40 bytes of 64"),
        says(&|| flip(first, 2), "not a pack of a model: it begins with \"PE^STOCK\""),
        says(&|| change(first, 8, |byte| *byte = 9), "is of format 9 and this program reads 1"),
        says(&|| flip(first, 30), "the pack's preamble is damaged"),
        says(&|| flip(first, 64 + header / 2), "the pack's header is damaged"),
        says(&|| flip(first, sums + 5), "the pack's table of sums is damaged"),
        says(&cut(len - 4096), &format!("it has {} bytes of {len}", len - 4096)),
        says(
            &|| fs::write(first, [&whole[0][..], b"more"].concat()).unwrap(),
            "4 more than belong to it",
        ),
        says(&|| flip(&files[trunk.file as usize], trunk.offset + 7), &name),
        says(&|| flip(&files[slab.file as usize], slab.offset + 4095), "layer 1, expert 5: 4096"),
        says(&|| fs::remove_file(&files[1]).unwrap(), "p.2, is missing"),
        says(
            &|| {
                pack(&other, &files[..1], 4096);
            },
            "the pack of another model: it was made from other.gguf, not from m.gguf",
        ),
        says(&|| fs::remove_file(first).unwrap(), "there is no pack at"),
        says(&|| renew(1), "changed since it was packed (m.gguf was written to)"),
    ];
    fs::OpenOptions::new().append(true).open(&source).unwrap().set_len(5_000_000).unwrap();
    sentences.push(says(&|| {}, "(m.gguf had 3.8 MiB and has 4.8 MiB)"));
    let count = sentences.len();
    sentences.sort_unstable();
    sentences.dedup();
    assert_eq!(sentences.len(), count, "{sentences:#?}");
}

/// A sum made right again does not make a header right.
#[test]
fn a_header_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let model = write(&folder.path().join("m.gguf"), "tiny", Format::Q4K, 0);
    pack(&model, std::slice::from_ref(&path), BLOCK);
    let good = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(good[24..32].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&good[64..64 + len]).unwrap();
    for (from, to, words) in [
        ("\"rows\":512", "\"rows\":513", "the matrix token_embd.weight"),
        ("\"experts\":8", "\"experts\":9", "the experts of layer 0"),
        ("\"block\":1048576", "\"block\":1048577", "a block of 1048577 bytes cannot be"),
        ("\"block\":1048576", "\"block\":0000000", "header (its sum is right) is damaged"),
        ("\"blocks\":28", "\"blocks\":29", "the number of its blocks"),
        ("\"files\":[\"p\"]", "\"files\":[   ]", "list of files"),
        ("\"what\"", "\"that\"", "header (its sum is right) is damaged"),
    ] {
        assert!(header.contains(from), "{from}: {header}");
        let changed = header.replacen(from, to, 1);
        assert_eq!(changed.len(), len);
        let mut bytes = good.clone();
        bytes[64..64 + len].copy_from_slice(changed.as_bytes());
        let right = sum(changed.as_bytes()).to_le_bytes();
        bytes[32..40].copy_from_slice(&right);
        bytes[40..48].copy_from_slice(&right);
        let right = sum(&bytes[..56]).to_le_bytes();
        bytes[56..64].copy_from_slice(&right);
        fs::write(&path, bytes).unwrap();
        let error = reopen(&model, &path).unwrap_err().to_string();
        assert!(error.contains(words), "{from}: {error}");
    }
}

/// What stops packing leaves nothing new, and what was there as it was.
#[test]
fn what_is_not_finished_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&folder.path().join("m.gguf"), "tiny", Format::Q4K, 0);
    let files = [folder.path().join("a"), folder.path().join("b")];
    fs::write(&files[0], "older").unwrap();
    let mut seen = Vec::new();
    let stopped = pack_with(&model, &files, 4096, &mut |far| {
        // Nobody else packs to the same place meanwhile.
        let busy = pack_with(&model, &files, 4096, &mut |_| true).unwrap_err();
        assert!(busy.to_string().contains("another process is packing"), "{busy}");
        seen.push(far.done);
        seen.len() < 2
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && seen[1] > 0, "{seen:?}");
    assert_eq!(names(folder.path()), ["a", "m.gguf"]);
    assert_eq!(fs::read(&files[0]).unwrap(), b"older");

    // What a killed one left behind is replaced.
    fs::write(folder.path().join("a.part"), "half").unwrap();
    let mut last = 0;
    let built = pack_with(&model, &files, 4096, &mut |far| {
        assert!(far.done >= last && far.done <= far.whole);
        last = far.done;
        true
    });
    assert_eq!(last, reopen(&model, &files[0]).unwrap().bytes());
    let sizes = files.iter().map(|file| fs::metadata(file).unwrap().len());
    assert_eq!(built.unwrap().bytes, sizes.sum::<u64>());
    assert_eq!(names(folder.path()), ["a", "b", "m.gguf"]);

    let folder_path = [folder.path().to_path_buf()];
    let twice = [files[0].clone(), files[0].clone()];
    let nowhere = [folder.path().join("none/p")];
    for (files, block, words) in [
        (&folder_path[..], 4096, "a folder is no place"),
        (&twice, 4096, "named twice"),
        (&nowhere, 4096, "cannot write the pack"),
        (&[], 4096, "needs a file"),
        (&files, 4095, "a block of 4095 bytes cannot be"),
        (&files, 32 << 20, "cannot be"),
    ] {
        let error = pack_with(&model, files, block, &mut |_| true).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

/// Experts of one layer that differ have no slabs of one size.
#[test]
fn uneven_experts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = write(&folder.path().join("m.gguf"), "tiny", Format::Q4K, 0);
    let [gate, up, _] = model.contents.layers[1].experts[3].clone();
    model.contents.layers[1].experts[3] = [gate.clone(), up, gate];
    let files = [folder.path().join("p")];
    let error = pack_with(&model, &files, 4096, &mut |_| true).unwrap_err().to_string();
    assert!(error.starts_with("layer 1: expert 3 has a matrix Q4_K [512, 256] where"), "{error}");
    assert_eq!(names(folder.path()), ["m.gguf"]);
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.arg("pack").args(args).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A model of some 70 MB, so that packing it takes a moment.
fn larger(folder: &Path) -> PathBuf {
    let path = folder.join("m.gguf");
    let recipe = Recipe::new("tiny", Format::Q8_0, Some(20), 0.0, 0).unwrap();
    fs::write(&path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    path
}

/// Starts packing and waits until it is at work.
fn at_work(model: &Path, part: &Path) -> Child {
    let args = [model.to_str().unwrap(), "--cores", "1", "--block", "4K"];
    let mut child = command(&args).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while !part.exists() && child.try_wait().unwrap().is_none() && Instant::now() < patience {
        thread::sleep(Duration::from_micros(200));
    }
    child
}

#[test]
fn a_killed_pack_leaves_nothing_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let model = larger(folder.path());
    let (pack, part) = (folder.path().join("m.penstock"), folder.path().join("m.penstock.part"));
    let mut killed = 0;
    for signal in ["-KILL", "-INT", "-KILL", "-TERM"] {
        let _ = fs::remove_file(&part);
        let child = at_work(&model, &part);
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        if let Some(signal) = ended.status.signal() {
            killed += 1;
            assert!(!pack.exists());
            assert_eq!(part.exists(), signal == 9, "a signal that can be heard takes it away");
            let error = Pack::open(&part, &open(&model).contents, &open(&model).fingerprint);
            assert!(error.is_err(), "{error:?}");
        }
        let _ = fs::remove_file(&pack);
    }
    assert!(killed > 0, "it was always faster than the signal");
    let ran = command(&[model.to_str().unwrap()]).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(names(folder.path()), ["m.gguf", "m.penstock"]);
    assert!(reopen(&open(&model), &pack).is_ok());
}

#[test]
fn a_full_disk_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let model = larger(folder.path());
    let model = model.to_str().unwrap();
    // The shell's limit on the size of a file.
    let program = env!("CARGO_BIN_EXE_penstock");
    let limited = format!("trap '' XFSZ; ulimit -f 8; exec '{program}' pack \"$@\"");
    let ran = Command::new("bash").args(["-c", &limited, "bash", model]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said(&ran).contains("cannot write the pack") && said(&ran).contains("too large"));
    assert_eq!(names(folder.path()), ["m.gguf"]);

    // A small file system of our own, where that is allowed.
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=8m none \"$0\" && echo mounted && exec \"$@\"";
    let out = disk.join("p");
    let mut shell = Command::new("unshare");
    shell.args(["-rm", "bash", "-c", script, disk.to_str().unwrap(), program, "pack", model]);
    let Ok(ran) = shell.arg("-o").arg(&out).output() else { return };
    if ran.stdout.starts_with(b"mounted") {
        assert_eq!(ran.status.code(), Some(1));
        let said = said(&ran);
        assert!(said.contains("the pack needs 6") && said.contains("8.0 MiB free"), "{said}");
    }
}

#[test]
fn the_command_packs_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.gguf");
    let model = write(&source, "tiny", Format::Q4K, 0);
    let name = source.to_str().unwrap();
    let ran = command(&[name, "--verify"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said(&ran).contains("there is no pack at"), "{}", said(&ran));

    let ran = command(&[name]).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(said(&ran).contains("m.penstock: trunk 464.0 KiB, 16 slabs of 216.0 KiB; 3.8 MiB in"));
    let ran = command(&[name, "--verify"]).output().unwrap();
    assert!(ran.status.success() && said(&ran).contains("every block is as it was written"));

    let path = folder.path().join("m.penstock");
    let pack = reopen(&model, &path).unwrap();
    let places = [
        (pack.slab_blocks(0, 7).next().unwrap(), Place::Slab { layer: 0, expert: 7 }),
        (pack.slab_blocks(1, 2).next().unwrap(), Place::Slab { layer: 1, expert: 2 }),
    ];
    for (block, _) in &places {
        flip(&path, block.offset + 100);
    }
    let ran = command(&[name, "--verify", "--json"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    for (_, place) in &places {
        assert!(said(&ran).contains(&place.to_string()), "{}", said(&ran));
    }
    assert!(said(&ran).contains("2 damaged blocks"), "{}", said(&ran));
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["damages"][1]["place"], "layer 1, expert 2");

    // A model is not written over, and the one inside the program needs no pack.
    for (args, words) in
        [(&[name, "-o", name][..], "is the model itself"), (&["demo"], "needs no pack")]
    {
        let ran = command(args).output().unwrap();
        assert_eq!(ran.status.code(), Some(1));
        assert!(said(&ran).contains(words), "{}", said(&ran));
    }
    assert_eq!(command(&[name, "--block", "5000"]).output().unwrap().status.code(), Some(2));
}
