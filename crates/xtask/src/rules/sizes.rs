//! Rules of length: a file has at most 450 lines, unless its header gives a reason; a function has
//! at most 75.

use anyhow::Result;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::tree::{Finding, RustFile, Tree, is_test_only};

/// The maximum number of lines of a file.
const MAX_FILE: usize = 450;
/// The start of the sentence in a header that gives the reason for a longer file.
const REASON: &str = "Longer than 450 lines: ";
/// The maximum number of lines of a function, from its signature to its closing brace.
const MAX_FUNCTION: usize = 75;

/// Finds files that are too long.
pub(crate) fn file_length(tree: &Tree) -> Result<Vec<Finding>> {
    let too_long = |file: &&RustFile| file.text.lines().count() > MAX_FILE && !file.header().contains(REASON);
    let message = |file: &RustFile| {
        let lines = file.text.lines().count();
        format!("{lines} lines: expected at most {MAX_FILE}, or a header with the sentence \"{REASON}…\"")
    };
    Ok(tree
        .rust
        .iter()
        .filter(too_long)
        .map(|file| Finding::new(&file.path, 1, message(file)))
        .collect())
}

/// Finds functions that are too long, except in tests.
pub(crate) fn function_length(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in tree.production() {
        let mut functions = Functions {
            file,
            found: &mut found,
        };
        functions.visit_file(&file.syntax);
    }
    Ok(found)
}

struct Functions<'a> {
    file: &'a RustFile,
    found: &'a mut Vec<Finding>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        let lines = last - first + 1;
        if lines > MAX_FUNCTION {
            let message = format!("{}: {lines} lines: expected at most {MAX_FUNCTION}", signature.ident);
            self.found.push(Finding::new(&self.file.path, first, message));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test_only(&function.attrs) {
            self.check(&function.sig, &function.block);
            syn::visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.check(&function.sig, block);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }
}
