//! The cache of compiled kernels: whatever is on the disk, a kernel comes out right, and is compiled again only if it
//! must.

mod support;

use farspan_cuda::cache::{Cache, Key};
use farspan_cuda::compiler::Compiler;
use farspan_cuda::nvrtc::Nvrtc;
use farspan_cuda::{Variant, probe};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use support::{Folder, fake_nvrtc, in_process};

fn compiler(folder: &Path) -> Compiler {
    Compiler::new(Nvrtc::open(fake_nvrtc()).unwrap(), Cache::new(folder))
}

fn variant() -> Variant {
    probe::variants().remove(0)
}

/// The files of the cache.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn an_entry_is_what_was_put_and_of_its_key_alone() {
    let folder = Folder::new();
    let cache = Cache::new(folder.join("made/when/needed"));
    let (key, other) = (Key::of(["ab", "c"]), Key::of(["a", "bc"]));
    assert_eq!(cache.get(&key), None);
    for content in [&b"first"[..], b"", b"second"] {
        cache.put(&key, content).unwrap();
        assert_eq!(cache.get(&key).as_deref(), Some(content));
    }
    assert_eq!(cache.get(&other), None, "where a part ends is a part of the key");
    cache.put(&other, b"third").unwrap();
    let [one, two] = files(cache.folder()).try_into().unwrap();
    fs::rename(one, two).unwrap();
    assert_eq!((cache.get(&key), cache.get(&other)), (None, None), "a renamed entry is none");
}

#[test]
fn an_entry_is_replaced_whole() {
    let folder = Folder::new();
    let cache = Cache::new(&*folder);
    let key = Key::of(["a"]);
    let contents = [vec![1; 1 << 20], vec![2; 1 << 19]];
    cache.put(&key, &contents[0]).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| contents.iter().cycle().take(20).for_each(|one| cache.put(&key, one).unwrap()));
        while !writer.is_finished() {
            assert!(contents.contains(&cache.get(&key).expect("a whole entry at any time")));
        }
    });
}

#[test]
fn damaged_entries_are_compiled_again() {
    let folder = Folder::new();
    let compiler = compiler(&folder);
    let first = compiler.compile(&variant(), 90).unwrap();
    assert!(first.fresh);
    let [path] = files(&folder).try_into().unwrap();
    let whole = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut entry = whole.clone();
        entry[at] ^= 1;
        entry
    };
    let damaged = [
        ("empty", vec![]),
        ("garbage", b"garbage".repeat(100)),
        ("a header alone", whole[..40].to_vec()),
        ("truncated", whole[..whole.len() - 1].to_vec()),
        ("grown", [&whole[..], b"x"].concat()),
        ("another magic", flipped(0)),
        ("another checksum", flipped(8)),
        ("another content", flipped(whole.len() - 1)),
    ];
    for (what, entry) in damaged {
        fs::write(&path, entry).unwrap();
        let again = compiler.compile(&variant(), 90).unwrap();
        assert_eq!((again.fresh, &again.cubin), (true, &first.cubin), "{what}");
        assert_eq!(fs::read(&path).unwrap(), whole, "{what}: the entry is mended");
        assert!(!compiler.compile(&variant(), 90).unwrap().fresh);
    }
}

#[test]
fn whatever_makes_another_kernel_makes_another_entry() {
    let folder = Folder::new();
    let compiler = compiler(&folder);
    let mut renamed = variant();
    renamed.line += " ";
    for (variant, architecture) in [(variant(), 80), (variant(), 90), (renamed, 80)] {
        assert!(compiler.compile(&variant, architecture).unwrap().fresh);
    }
    assert_eq!(files(&folder).len(), 3);
}

#[test]
fn a_compiler_of_another_version_makes_another_entry() {
    in_process("a_compiler_of_another_version_makes_another_entry", Path::new("/nowhere"), &[], || {
        let folder = Folder::new();
        for (version, fresh) in [("12", true), ("13", true), ("12", false)] {
            // SAFETY: no other thread of this process reads the environment now.
            unsafe { std::env::set_var("FAKE_NVRTC_VERSION", version) };
            assert_eq!(compiler(&folder).compile(&variant(), 90).unwrap().fresh, fresh);
        }
    });
}

#[test]
fn kernels_that_name_their_lines_are_other_entries() {
    in_process("kernels_that_name_their_lines_are_other_entries", Path::new("/nowhere"), &[], || {
        let folder = Folder::new();
        for (set, fresh) in [("", true), ("1", true), ("0", false), ("1", false)] {
            // SAFETY: no other thread of this process reads the environment now.
            unsafe { std::env::set_var("FARSPAN_CUDA_LINEINFO", set) };
            assert_eq!(compiler(&folder).compile(&variant(), 90).unwrap().fresh, fresh, "{set:?}");
        }
    });
}

#[test]
fn a_folder_that_cannot_be_written_is_a_warning() {
    let folder = Folder::new();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let compiler = compiler(&file.join("cache")); // below a file there is no folder, not even for root
    for _ in 0..2 {
        assert!(compiler.compile(&variant(), 90).unwrap().fresh);
    }
    let warning = compiler.take_warning().unwrap();
    assert!(warning.contains("file/cache") && warning.contains("FARSPAN_CACHE_DIR"), "{warning}");
    assert_eq!(compiler.take_warning(), None);
}

#[test]
fn clearing_removes_entries_and_leftovers_and_nothing_else() {
    let folder = Folder::new();
    let cache = Cache::new(&*folder);
    assert_eq!(Cache::new(folder.join("absent")).clear().unwrap(), 0);
    for content in ["a", "bb"] {
        cache.put(&Key::of([content]), content.as_bytes()).unwrap();
    }
    let entry = files(&folder).remove(0);
    let name = entry.file_stem().unwrap().to_str().unwrap();
    fs::write(folder.join(format!("{name}.77-0.unfinished")), "abc").unwrap();
    let foreign = ["notes.cubin", "notes.unfinished", name, &format!("{name}.so")].map(|name| folder.join(name));
    foreign.iter().for_each(|path| fs::write(path, "mine").unwrap());
    fs::create_dir(folder.join(format!("{}.cubin", "0".repeat(64)))).unwrap();
    let contents = cache.contents().unwrap();
    assert_eq!((contents.entries, contents.bytes), (2, 2 * 40 + 3 + 3));
    assert_eq!(cache.clear().unwrap(), 2);
    assert_eq!(files(&folder).len(), foreign.len() + 1);
    assert!(foreign.iter().all(|path| path.exists()));
}

#[test]
fn threads_and_processes_share_a_folder() {
    const FOLDER: &str = "FARSPAN_TEST_SHARED";
    let work = |folder: &Path| {
        let compiler = compiler(folder);
        let whole = compiler.compile(&variant(), 90).unwrap().cubin;
        for round in 0..200 {
            let compiled = compiler.compile(&variant(), 90).unwrap();
            assert_eq!(compiled.cubin, whole);
            if round % 10 == 0 {
                compiler.cache().clear().unwrap();
            }
        }
        assert_eq!(compiler.take_warning(), None, "an entry that another process replaces or removes is no trouble");
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        return thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| work(Path::new(&folder))))));
    }
    let folder = Folder::new();
    fake_nvrtc();
    let test = || {
        let arguments = ["--exact", "threads_and_processes_share_a_folder"];
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).env(FOLDER, &*folder).stdout(Stdio::null()).spawn().unwrap()
    };
    let processes = [test(), test(), test()];
    assert!(processes.into_iter().all(|mut process| process.wait().unwrap().success()));
    assert!(files(&folder).iter().all(|path| path.extension().unwrap() == "cubin"), "nothing unfinished is left");
}

/// The folder that is used where the environment has these variables.
macro_rules! usual_folder {
    ($($name:ident: $variables:expr => $folder:literal;)*) => {
        $(#[test]
        fn $name() {
            in_process(stringify!($name), Path::new("/nowhere"), &$variables, || {
                assert_eq!(Cache::usual().folder(), Path::new($folder));
            });
        })*
    };
}

usual_folder! {
    our_own_variable_comes_first:
        [("FARSPAN_CACHE_DIR", "/own"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")] => "/own";
    then_the_desktops: [("FARSPAN_CACHE_DIR", ""), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")] => "/xdg/farspan";
    then_the_home:
        [("FARSPAN_CACHE_DIR", ""), ("XDG_CACHE_HOME", ""), ("HOME", "/home/me")] => "/home/me/.cache/farspan";
    a_relative_folder_of_the_desktop_does_not_count:
        [("FARSPAN_CACHE_DIR", ""), ("XDG_CACHE_HOME", "xdg"), ("HOME", "/home/me")] => "/home/me/.cache/farspan";
}
