//! Functions of Rust files with a body and with their documentation, as syn parses them: JSON lines. Macros are not expanded.
use std::{env, fs, path::Path};
use syn::{spanned::Spanned, visit::Visit};

struct Found {
    path: String,
}

fn documentation(attributes: &[syn::Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|found| matches!(found.style, syn::AttrStyle::Outer)) {
        if let Ok(syn::Meta::NameValue(pair)) = attribute.parse_meta() {
            if let (true, syn::Lit::Str(text)) = (pair.path.is_ident("doc"), &pair.lit) {
                lines.push(text.value());
            }
        }
    }
    lines.join("\n")
}

fn escaped(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if (letter as u32) < 32 => out.push_str(&format!("\\u{:04x}", letter as u32)),
            letter => out.push(letter),
        }
    }
    out + "\""
}

impl Found {
    fn tell(&self, name: &syn::Ident, line: usize, attributes: &[syn::Attribute]) {
        let (path, doc) = (escaped(&self.path), escaped(&documentation(attributes)));
        println!("{{\"path\": {path}, \"line\": {line}, \"name\": {}, \"doc\": {doc}}}", escaped(&name.to_string()));
    }
}

fn first_line(vis: Option<&syn::Visibility>, signature: &syn::Signature) -> usize {
    match vis {
        Some(vis) if !matches!(vis, syn::Visibility::Inherited) => vis.span().start().line,
        _ => signature.span().start().line,
    }
}

impl<'a> Visit<'a> for Found {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.tell(&item.sig.ident, first_line(Some(&item.vis), &item.sig), &item.attrs);
        syn::visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_method(&mut self, item: &'a syn::ImplItemMethod) {
        self.tell(&item.sig.ident, first_line(Some(&item.vis), &item.sig), &item.attrs);
        syn::visit::visit_impl_item_method(self, item);
    }
    fn visit_trait_item_method(&mut self, item: &'a syn::TraitItemMethod) {
        if item.default.is_some() {
            self.tell(&item.sig.ident, first_line(None, &item.sig), &item.attrs);
        }
        syn::visit::visit_trait_item_method(self, item);
    }
}

fn walk(folder: &Path) {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for place in entries {
        if place.is_dir() {
            walk(&place);
        } else if place.extension().is_some_and(|ending| ending == "rs") {
            if let Ok(Ok(file)) = fs::read_to_string(&place).map(|text| syn::parse_file(&text)) {
                Found { path: place.display().to_string() }.visit_file(&file);
            }
        }
    }
}

fn main() {
    walk(Path::new(&env::args().nth(1).expect("a folder")));
}
