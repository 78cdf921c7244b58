//! The kernels' text, and the program that compiles to one variant.

use crate::device::Variant;

macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../kernels/", $name)))),*]
    };
}

/// Every header of `kernels/` and its folders, by its path from there, which is how others include it.
pub const HEADERS: &[(&str, &str)] = headers![
    "attention/block.cuh",
    "attention/combine.cuh",
    "attention/gradient/known.cuh",
    "attention/gradient/lines.cuh",
    "attention/gradient/params.cuh",
    "attention/gradient/slopes.cuh",
    "attention/gradient/sum.cuh",
    "attention/gradient/turn.cuh",
    "attention/gradient/walk.cuh",
    "attention/members.cuh",
    "attention/merge.cuh",
    "attention/pages.cuh",
    "attention/params.cuh",
    "attention/prepare.cuh",
    "attention/product.cuh",
    "attention/ring.cuh",
    "attention/rotate.cuh",
    "attention/rows.cuh",
    "attention/scores.cuh",
    "attention/statistics/combine.cuh",
    "attention/statistics/moments.cuh",
    "attention/statistics/params.cuh",
    "attention/statistics/walk.cuh",
    "attention/tile.cuh",
    "attention/walk.cuh",
    "loss/block.cuh",
    "loss/entropy.cuh",
    "loss/gather.cuh",
    "loss/outer.cuh",
    "loss/pairs.cuh",
    "loss/params.cuh",
    "loss/rows.cuh",
    "loss/sides.cuh",
    "loss/slopes.cuh",
    "loss/store.cuh",
    "math.cuh",
    "probe.cuh",
    "ptx.cuh",
    "unembed/block.cuh",
    "unembed/merge.cuh",
    "unembed/params.cuh",
    "unembed/product.cuh",
    "unembed/row.cuh",
    "unembed/select.cuh",
    "unembed/state.cuh",
    "unembed/target.cuh",
    "unembed/walk.cuh",
];

/// A program of one kernel, with the headers that it needs and no others: so a change of one family of kernels leaves
/// the compiled ones of another valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The text to compile.
    pub text: String,
    /// The headers included, directly or by one another, in the order of [`HEADERS`].
    pub headers: Vec<(&'static str, &'static str)>,
}

/// The program of a variant.
pub fn program(variant: &Variant) -> Program {
    let text = format!("#include \"{}\"\n{}\n", variant.header, variant.line);
    let mut names = included(&text).collect::<Vec<_>>();
    let mut next = 0;
    while let Some(name) = names.get(next) {
        let (_, header) = HEADERS.iter().find(|(known, _)| known == name).copied().unwrap_or_default();
        for name in included(header) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        next += 1;
    }
    let headers = HEADERS.iter().filter(|(name, _)| names.contains(name)).copied().collect();
    Program { text, headers }
}

fn included(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::{HEADERS, included, program};
    use crate::probe;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The files of a folder and of those in it, by their paths from `root`.
    fn files(root: &Path, folder: &Path) -> BTreeSet<String> {
        let paths = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let found = paths.flat_map(|path| match path.is_dir() {
            true => files(root, &path),
            false => BTreeSet::from([path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()]),
        });
        found.collect()
    }

    #[test]
    fn every_header_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let embedded: BTreeSet<_> = HEADERS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, files(&folder, &folder));
    }

    #[test]
    fn a_program_has_the_headers_it_needs_and_no_others() {
        let program = program(&probe::variants()[0]);
        assert!(program.text.starts_with("#include \"probe.cuh\"\nFARSPAN_KERNEL(probe_bf16, "));
        let names: Vec<_> = program.headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["probe.cuh", "ptx.cuh"], "probe.cuh alone includes ptx.cuh");
    }

    #[test]
    fn kernels_include_one_another_and_nothing_else() {
        for (header, text) in HEADERS {
            let lines = text.lines().filter(|line| line.trim_start().starts_with("#include")).count();
            assert_eq!(included(text).count(), lines, "{header}");
            for name in included(text).filter(|name| *name != "emulated.hpp") {
                assert!(HEADERS.iter().any(|(known, _)| *known == name), "{header} includes {name}");
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = crate::variants().into_iter().map(|variant| variant.name).collect();
        assert_eq!(names.len(), crate::variants().len());
    }
}
