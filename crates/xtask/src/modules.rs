//! The module tree of a crate. Finds the file that defines the item of a path.
//!
//! A path is followed from module to module and through re-exports, so `use crate::model::State`
//! leads to the file that defines `State` and not to the `mod.rs` that re-exports it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

use crate::tree::{Tree, attributes, is_test_only, module_files};

/// A module's names, starting at the crate's root.
type ModulePath = Vec<String>;

/// The longest chain of re-exports that is followed.
const MAX_REEXPORTS: usize = 16;

/// One crate's modules.
pub(crate) struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

struct Module {
    file: PathBuf,
    /// Names that the module defines.
    items: BTreeSet<String>,
    /// Re-exported names, with their source paths.
    reexports: BTreeMap<String, Vec<String>>,
    /// Paths of glob re-exports.
    globs: Vec<Vec<String>>,
    /// The paths in its code, with their lines.
    uses: Vec<Use>,
}

/// A path in a file.
struct Use {
    path: Vec<String>,
    line: usize,
}

/// For each file, the files it needs, each with the line of the first use.
pub(crate) type Dependencies = BTreeMap<PathBuf, BTreeMap<PathBuf, usize>>;

impl Crate {
    /// Reads the modules below the file `root` (`lib.rs` or `main.rs`), without test modules.
    pub(crate) fn read(tree: &Tree, root: &Path) -> Self {
        let mut this = Self {
            modules: BTreeMap::new(),
        };
        this.add_file(tree, root, &[]);
        this
    }

    fn add_file(&mut self, tree: &Tree, path: &Path, name: &[String]) {
        let Some(file) = tree.rust.iter().find(|file| file.path == path) else {
            return;
        };
        self.add_items(tree, path, name, &file.syntax.items);
    }

    fn add_items(&mut self, tree: &Tree, path: &Path, name: &[String], items: &[syn::Item]) {
        let mut module = Module {
            file: path.to_path_buf(),
            items: BTreeSet::new(),
            reexports: BTreeMap::new(),
            globs: Vec::new(),
            uses: Vec::new(),
        };
        for item in items.iter().filter(|item| !is_test_only(attributes(item))) {
            module.add(item);
            let syn::Item::Mod(child) = item else { continue };
            let child_name: ModulePath = name.iter().cloned().chain([child.ident.to_string()]).collect();
            match &child.content {
                Some((_, items)) => self.add_items(tree, path, &child_name, items),
                None => {
                    for file in module_files(path, &child.ident.to_string()) {
                        self.add_file(tree, &file, &child_name);
                    }
                }
            }
        }
        self.modules.insert(name.to_vec(), module);
    }

    /// Returns the dependencies between the crate's files.
    pub(crate) fn dependencies(&self) -> Dependencies {
        let mut dependencies = Dependencies::new();
        for (name, module) in &self.modules {
            let of_file = dependencies.entry(module.file.clone()).or_default();
            for used in &module.uses {
                let Some(file) = self.resolve(name, &used.path, 0) else {
                    continue;
                };
                if file != module.file {
                    of_file.entry(file).or_insert(used.line);
                }
            }
        }
        dependencies
    }

    /// Returns the file of the item that `path` means inside the module `from`; `None` for items of
    /// other crates.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<PathBuf> {
        if depth > MAX_REEXPORTS {
            return None;
        }
        let (first, mut rest) = path.split_first()?;
        let mut at: ModulePath = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.to_vec(),
            "super" => from.split_last()?.1.to_vec(),
            name => {
                let child: ModulePath = from.iter().cloned().chain([name.to_string()]).collect();
                self.modules.contains_key(&child).then_some(child)?
            }
        };
        while let Some((name, next)) = rest.split_first() {
            if name == "super" {
                at.pop();
                rest = next;
                continue;
            }
            let child: ModulePath = at.iter().cloned().chain([name.clone()]).collect();
            if self.modules.contains_key(&child) {
                (at, rest) = (child, next);
                continue;
            }
            return self.item(&at, name, next, depth);
        }
        self.modules.get(&at).map(|module| module.file.clone())
    }

    /// Returns the file of the item `name` of the module `at`, which may re-export it.
    fn item(&self, at: &[String], name: &str, rest: &[String], depth: usize) -> Option<PathBuf> {
        let module = self.modules.get(at)?;
        if module.items.contains(name) {
            return Some(module.file.clone());
        }
        if let Some(target) = module.reexports.get(name) {
            let path: Vec<String> = target.iter().chain(rest).cloned().collect();
            return self.resolve(at, &path, depth + 1);
        }
        let through = |glob: &Vec<String>| {
            let path: Vec<String> = glob
                .iter()
                .cloned()
                .chain([name.to_string()])
                .chain(rest.iter().cloned())
                .collect();
            self.resolve(at, &path, depth + 1)
        };
        module.globs.iter().find_map(through)
    }
}

impl Module {
    fn add(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Use(item) => {
                let passed_on = !matches!(item.vis, syn::Visibility::Inherited);
                self.add_use(&item.tree, &mut Vec::new(), passed_on);
                return;
            }
            syn::Item::Mod(_) => return,
            syn::Item::Const(item) => self.items.insert(item.ident.to_string()),
            syn::Item::Enum(item) => self.items.insert(item.ident.to_string()),
            syn::Item::Fn(item) => self.items.insert(item.sig.ident.to_string()),
            syn::Item::Static(item) => self.items.insert(item.ident.to_string()),
            syn::Item::Struct(item) => self.items.insert(item.ident.to_string()),
            syn::Item::Trait(item) => self.items.insert(item.ident.to_string()),
            syn::Item::Type(item) => self.items.insert(item.ident.to_string()),
            _ => false,
        };
        let mut paths = Paths { uses: &mut self.uses };
        paths.visit_item(item);
    }

    fn add_use(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, passed_on: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_use(&path.tree, prefix, passed_on);
                prefix.pop();
            }
            syn::UseTree::Name(name) => self.add_name(&name.ident, &name.ident, prefix, passed_on),
            syn::UseTree::Rename(name) => self.add_name(&name.ident, &name.rename, prefix, passed_on),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, prefix, passed_on);
                }
            }
            syn::UseTree::Glob(glob) => match passed_on {
                true => self.globs.push(prefix.clone()),
                false => self.uses.push(Use {
                    path: prefix.clone(),
                    line: glob.star_token.spans[0].start().line,
                }),
            },
        }
    }

    fn add_name(&mut self, name: &syn::Ident, alias: &syn::Ident, prefix: &[String], passed_on: bool) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        match passed_on {
            true => {
                let alias = match name == "self" {
                    true => prefix.last().cloned().unwrap_or_default(),
                    false => alias.to_string(),
                };
                self.reexports.insert(alias, path);
            }
            false => self.uses.push(Use {
                path,
                line: name.span().start().line,
            }),
        }
    }
}

/// Collects paths that begin with `crate`, `super` or `self` in code.
struct Paths<'a> {
    uses: &'a mut Vec<Use>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && matches!(names[0].as_str(), "crate" | "super" | "self") {
            let line = path.segments[0].ident.span().start().line;
            self.uses.push(Use { path: names, line });
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // a `use` inside a function
        let mut module = Module {
            file: PathBuf::new(),
            items: BTreeSet::new(),
            reexports: BTreeMap::new(),
            globs: Vec::new(),
            uses: Vec::new(),
        };
        module.add_use(&item.tree, &mut Vec::new(), false);
        self.uses.append(&mut module.uses);
    }
}

/// Finds import cycles: strongly connected components of more than one file, by Tarjan's algorithm.
pub(crate) fn cycles(dependencies: &Dependencies) -> Vec<Vec<PathBuf>> {
    let mut search = Search {
        dependencies,
        numbers: BTreeMap::new(),
        lowest: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for file in dependencies.keys() {
        if !search.numbers.contains_key(file.as_path()) {
            search.visit(file);
        }
    }
    search.found
}

struct Search<'a> {
    dependencies: &'a Dependencies,
    numbers: BTreeMap<&'a Path, usize>,
    lowest: BTreeMap<&'a Path, usize>,
    stack: Vec<&'a Path>,
    found: Vec<Vec<PathBuf>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, file: &'a Path) {
        let number = self.numbers.len();
        self.numbers.insert(file, number);
        self.lowest.insert(file, number);
        self.stack.push(file);
        let dependencies = self.dependencies;
        for next in dependencies.get(file).into_iter().flat_map(BTreeMap::keys) {
            let reached = match self.numbers.get(next.as_path()) {
                None => {
                    self.visit(next);
                    self.lowest[next.as_path()]
                }
                Some(number) if self.stack.contains(&next.as_path()) => *number,
                Some(_) => continue,
            };
            let lowest = self.lowest[file].min(reached);
            self.lowest.insert(file, lowest);
        }
        if self.lowest[file] == number {
            let from = self.stack.iter().position(|other| *other == file).unwrap_or(0);
            let group = self.stack.split_off(from);
            if group.len() > 1 {
                self.found.push(group.into_iter().map(Path::to_path_buf).collect());
            }
        }
    }
}
