//! Tests each rule on a small tree that breaks it and on one that does not.

use std::fs;
use std::path::Path;

use super::{Rule, crates, documents, files, operations, sizes, state, words};
use crate::tree::Tree;

/// Returns a rule's findings in a tree of these files, as `FILE:LINE: MESSAGE`.
fn found(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let tree = Tree::read(folder.path()).unwrap();
    rule(&tree).unwrap().iter().map(ToString::to_string).collect()
}

fn check(rule: Rule, files: &[(&str, &str)], expected: &[&str]) {
    let found = found(rule, files);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "found {found}, expected {expected}");
    }
}

#[test]
fn a_file_opens_with_what_it_is() {
    let files = [
        ("crates/a/src/lib.rs", "//! A.\n"),
        ("crates/a/src/b.rs", "fn b() {}\n"),
    ];
    check(files::headers, &files, &["crates/a/src/b.rs:1: "]);
}

#[test]
fn unfinished_code_is_found_by_word() {
    let mark = ["TO", "DO"].concat();
    let text = format!("//! A.\n// {mark}: more\n// m{mark} is a word\n");
    check(
        files::unfinished,
        &[("crates/a/src/lib.rs", &text)],
        &["crates/a/src/lib.rs:2: "],
    );
    check(files::unfinished, &[("notes.md", &text)], &[]);
}

#[test]
fn long_files_give_a_reason() {
    let lines = "// line\n".repeat(450);
    let long = format!("//! A.\n{lines}");
    check(
        sizes::file_length,
        &[("crates/a/src/lib.rs", &long)],
        &["crates/a/src/lib.rs:1: 451 lines"],
    );
    let excused = format!("//! A. Longer than 450 lines: one table.\n{lines}");
    check(sizes::file_length, &[("crates/a/src/lib.rs", &excused)], &[]);
}

#[test]
fn long_functions_are_found_outside_tests() {
    let function = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let text = format!("//! A.\n{}", function(76));
    check(
        sizes::function_length,
        &[("crates/a/src/lib.rs", &text)],
        &["crates/a/src/lib.rs:2: f: 76 lines"],
    );
    check(
        sizes::function_length,
        &[("crates/a/src/lib.rs", &format!("//! A.\n{}", function(75)))],
        &[],
    );
    let tests = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n", function(90));
    check(sizes::function_length, &[("crates/a/src/lib.rs", &tests)], &[]);
    let method = format!("//! A.\nstruct S;\nimpl S {{\n{}}}\n", function(80));
    check(
        sizes::function_length,
        &[("crates/a/src/lib.rs", &method)],
        &["crates/a/src/lib.rs:4: f: 80"],
    );
}

#[test]
fn circles_of_imports_are_followed_through_reexports() {
    let root = (
        "crates/a/src/lib.rs",
        "//! A.\nmod x;\nmod y;\npub use x::X;\npub use y::Y;\n",
    );
    let y = ("crates/a/src/y.rs", "//! Y.\nuse crate::X;\npub struct Y(X);\n");
    let circle = [
        root,
        ("crates/a/src/x.rs", "//! X.\npub struct X(Option<Box<crate::Y>>);\n"),
        y,
    ];
    let expected = [
        "crates/a/src/y.rs:2: in a circle of 2 files",
        "crates/a/src/x.rs:2: in a circle",
    ];
    let mut both = found(crates::import_cycles, &circle);
    both.sort();
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(
        both[1].starts_with(expected[0]) && both[0].starts_with(expected[1]),
        "{both:?}"
    );
    let line = [root, ("crates/a/src/x.rs", "//! X.\npub struct X;\n"), y];
    check(crates::import_cycles, &line, &[]);
    let in_tests = "//! X.\npub struct X;\n#[cfg(test)]\nmod tests {\n    use crate::Y;\n}\n";
    check(crates::import_cycles, &[root, ("crates/a/src/x.rs", in_tests), y], &[]);
}

#[test]
fn a_child_may_not_need_its_parent_that_needs_the_child() {
    let parent = ("crates/a/src/m/mod.rs", "//! M.\nmod c;\nuse c::C;\npub struct M(C);\n");
    let root = ("crates/a/src/lib.rs", "//! A.\nmod m;\n");
    let child = ("crates/a/src/m/c.rs", "//! C.\nuse super::M;\npub struct C(Box<M>);\n");
    assert_eq!(found(crates::import_cycles, &[root, parent, child]).len(), 2);
}

#[test]
fn dependencies_point_down() {
    let toml = "[dependencies]\nmblm.workspace = true\n[dev-dependencies]\nmblm-cli = \"1\"\n";
    check(
        crates::upward_dependencies,
        &[("crates/mblm-ops/Cargo.toml", toml)],
        &["crates/mblm-ops/Cargo.toml:2: "],
    );
    check(
        crates::upward_dependencies,
        &[("crates/mblm-app/Cargo.toml", toml)],
        &[],
    );
}

#[test]
fn the_core_names_neither_blocks_nor_vision() {
    let code = "//! A Transformer or an image in a text is an example.\nstruct MambaConfig;\nfn decode_jpeg() {}\n";
    let core = [("crates/mblm/src/lib.rs", code)];
    check(
        words::block_names,
        &core,
        &["crates/mblm/src/lib.rs:2: names the block `mamba`"],
    );
    check(
        words::vision_words,
        &core,
        &["crates/mblm/src/lib.rs:3: the word `jpeg`"],
    );
    check(words::block_names, &[("crates/mblm/src/blocks/m.rs", code)], &[]);
    check(words::vision_words, &[("crates/mblm-vision/src/lib.rs", code)], &[]);
}

#[test]
fn terms_are_those_of_the_glossary() {
    let code = "//! A.\n/// Takes portions.\nconst MOST_ROWS: usize = 1;\nconst KEY: &str = \"picture\";\n";
    let expected = ["crates/a/src/lib.rs:2: `portions`", "crates/a/src/lib.rs:3: `most_`"];
    check(words::terms, &[("crates/a/src/lib.rs", code)], &expected);
}

#[test]
fn names_are_taken_apart() {
    assert_eq!(
        words::split_names("let x = Mamba2Config::new(to_jpeg);"),
        ["let", "x", "mamba2", "config", "new", "to", "jpeg"]
    );
}

#[test]
fn globals_that_change_are_found() {
    let code = "//! A.\nstatic mut X: u8 = 0;\nstatic Y: Mutex<u8> = Mutex::new(0);\nstatic Z: OnceLock<bool> = OnceLock::new();\n";
    let expected = ["crates/a/src/lib.rs:2: ", "crates/a/src/lib.rs:3: "];
    check(state::globals, &[("crates/a/src/lib.rs", code)], &expected);
}

#[test]
fn files_are_written_atomically() {
    let code = "//! A.\nfn f() {\n    std::fs::write(\"a\", \"b\");\n}\n";
    check(
        state::direct_writes,
        &[("crates/a/src/lib.rs", code)],
        &["crates/a/src/lib.rs:3: "],
    );
    check(
        state::direct_writes,
        &[("crates/mblm/src/checkpoint/atomic.rs", code)],
        &[],
    );
}

#[test]
fn operations_have_a_reference_and_a_test() {
    let op = |name: &str| format!("crates/mblm-ops/src/gelu/{name}");
    let (module, reference) = (op("mod.rs"), op("reference.rs"));
    let whole = [
        (module.as_str(), "//! G.\nop_test!();\n"),
        (reference.as_str(), "//! R.\n"),
    ];
    check(operations::references, &whole, &[]);
    check(
        operations::references,
        &[(module.as_str(), "//! G.\n")],
        &["crates/mblm-ops/src/gelu:1: ", "crates/mblm-ops/src/gelu:1: "],
    );
}

#[test]
fn links_lead_somewhere() {
    let text = "[a](b.md) [c](https://c.org) [d](#place)\n[e](nowhere.md#part)\n";
    check(
        documents::links,
        &[("a.md", text), ("b.md", "")],
        &["a.md:2: the link nowhere.md"],
    );
    assert_eq!(
        documents::targets("[a](x/y.md) and [b](z)").collect::<Vec<_>>(),
        ["x/y.md", "z"]
    );
}

#[test]
fn the_readme_names_its_commands() {
    let whole = "cargo test --workspace\ncargo run --release -p mblm-cli -- train configs/quickstart.yaml --minutes 2.5 --precision fastest\n";
    check(documents::commands, &[("README.md", whole)], &[]);
    check(
        documents::commands,
        &[("README.md", "cargo test --workspace\n")],
        &["README.md:1: "],
    );
}

#[test]
fn large_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("large")).unwrap();
    file.set_len((5 << 20) + 1).unwrap();
    let found = files::large(&Tree::read(folder.path()).unwrap()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, Path::new("large"));
}

#[test]
fn prose_is_at_most_a_hundred_columns_wide() {
    let wide = "word ".repeat(21);
    let text = format!("# A\n{wide}\n| {wide} |\n```\n{wide}\n```\n[a]({wide}) see](x)\n");
    check(documents::prose_width, &[("a.md", &text)], &["a.md:2: 105 columns"]);
    let code = format!("//! A.\n// {wide}\nconst A: &str = \"{wide}{wide}\";\n");
    check(
        documents::prose_width,
        &[("crates/a/src/lib.rs", &code)],
        &["crates/a/src/lib.rs:2: 108 columns"],
    );
}

#[test]
fn documents_use_the_words_of_the_glossary() {
    let word = ["pict", "ure"].concat();
    let text = format!("A {word}.\nThe key `{word}`.\n```\n{word}\n```\n");
    check(documents::terms, &[("a.md", &text)], &["a.md:1: "]);
    check(documents::terms, &[("docs/glossary.md", &text)], &[]);
}
