//! What is changed in a compiler's assembly listing for ELF, in the syntax that gcc and clang share (GNU as, "Pseudo Ops").

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// What symbols of tables start with: those stay visible.
const TABLE: &str = "gridpoint_module_";
/// What the name of a variable starts with that is static in a function (Itanium C++ ABI, "local-name").
const LOCAL: &str = "_ZZ";

/// Bytes before, between and behind the variables that are moved, into which a store goes that leaves one of them.
const GAP: u32 = 256;

/// Makes every symbol that is defined here but tables local, takes all sections out of their groups, and puts variables that are static
/// in a function into `section`, apart from each other; the list of them is what `gridpoint_cuda_export.h` calls `gridpoint_variables`.
pub(crate) fn edit(listing: &str, section: &str) -> String {
    // Names and sizes.
    let mut variables: Vec<(&str, &str)> = Vec::new();
    let sizes: HashMap<&str, &str> = listing.lines().filter_map(size).collect();
    let defined: HashSet<&str> = listing.lines().filter_map(label).collect();
    let mut edited = String::with_capacity(listing.len());
    for line in listing.lines() {
        let (directive, operands) = split(line);
        let symbol = operands.split(',').next().unwrap_or_default().trim();
        match directive {
            ".globl" | ".weak" if defined.contains(symbol) && !symbol.starts_with(TABLE) => {}
            ".section" => {
                let _ = writeln!(edited, "\t.section\t{}", move_section(operands, section));
                if let Some(variable) = moved(operands) {
                    variables.push((variable, sizes.get(variable).copied().unwrap_or("0")));
                    let _ = writeln!(edited, "\t.zero\t{GAP}");
                }
            }
            // A variable without a section; `.local` has come before.
            ".comm" if symbol.starts_with(LOCAL) => {
                let mut numbers = operands.split(',').skip(1).map(str::trim);
                let (bytes, alignment) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("1"));
                variables.push((symbol, bytes));
                let _ = writeln!(edited, "\t.pushsection\t{section},\"aw\",@nobits\n\t.zero\t{GAP}");
                let _ = writeln!(edited, "\t.balign\t{alignment}\n\t.type\t{symbol}, @object");
                let _ = writeln!(edited, "\t.size\t{symbol}, {bytes}\n{symbol}:\n\t.zero\t{bytes}\n\t.popsection");
            }
            ".type" if operands.trim_end().ends_with("gnu_unique_object") => {
                let _ = writeln!(edited, "\t.type\t{symbol}, @object");
            }
            _ => {
                edited.push_str(line);
                edited.push('\n');
            }
        }
    }
    if !variables.is_empty() {
        let _ = writeln!(edited, "\t.section\t{section},\"aw\",@nobits\n\t.zero\t{GAP}");
    }
    let _ = writeln!(
        edited,
        "\t.section\t.data.rel.ro.gridpoint_variables,\"aw\",@progbits\n\t.balign\t8\ngridpoint_variables:"
    );
    for (variable, bytes) in &variables {
        let _ = writeln!(edited, "\t.quad\t{variable}, {bytes}");
    }
    let _ = writeln!(edited, "gridpoint_variable_count:\n\t.quad\t{}", variables.len());
    edited
}

/// The static variable of a function that a `.section` with these operands holds alone.
fn moved(operands: &str) -> Option<&str> {
    let name = operands.split(',').next()?.trim();
    let variable = name.strip_prefix(".bss.").or_else(|| name.strip_prefix(".data."))?;
    variable.starts_with(LOCAL).then_some(variable)
}

/// A line's directive and the rest, without the comment that clang writes behind some.
fn split(line: &str) -> (&str, &str) {
    let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(directive, operands)| (directive, operands.trim()))
}

/// The symbol of a `.size`, and its size.
fn size(line: &str) -> Option<(&str, &str)> {
    let (".size", operands) = split(line) else { return None };
    operands.split_once(',').map(|(symbol, bytes)| (symbol.trim(), bytes.trim()))
}

/// The symbol that a line defines.
fn label(line: &str) -> Option<&str> {
    let name = line.split_once(':')?.0;
    let whole = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte));
    whole.then_some(name)
}

/// The operands of a `.section`: without a group, and `section` where a static variable of a function has one to itself.
fn move_section<'a>(operands: &'a str, section: &str) -> Cow<'a, str> {
    let mut fields = operands.split(',').map(str::trim);
    let (name, flags) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    if moved(operands).is_some() {
        return format!("{section},\"aw\",@nobits").into();
    }
    if !flags.contains('G') || !flags.contains('a') {
        return operands.into();
    }
    // Type and, with mergeable entries, their size stay; group and linkage go.
    let kept = if flags.contains('M') { 2 } else { 1 };
    let rest: Vec<&str> = fields.take(kept).collect();
    format!("{name},{},{}", flags.replace('G', ""), rest.join(",")).into()
}

/// The files that a make rule, as `-MMD` writes it, names behind its colon.
pub(crate) fn prerequisites(rule: &str) -> Vec<String> {
    let Some((_, files)) = rule.split_once(": ") else { return Vec::new() };
    // A space in a name has a backslash before it, and so has the end of a line.
    let files = files.replace("\\\n", " ").replace("\\ ", "\0");
    files.split_whitespace().map(|file| file.replace('\0', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_become_local_and_shared_variables_move() {
        let listing = "\t.section\t.text._Z1fIiEvv,\"axG\",@progbits,_Z1fIiEvv,comdat\n\t.weak\t_Z1fIiEvv\n_Z1fIiEvv:\n\tcall\tother@PLT\n\
                       \t.weak\t__start_x\n\t.globl\tgridpoint_module_a\ngridpoint_module_a:\n\t.globl\tkernel # -- Begin function kernel\nkernel:\n\
                       \t.local\t_ZZ6kernelE1s\n\t.comm\t_ZZ6kernelE1s,256,32\n\
                       \t.section\t.bss._ZZ1fIiEvvE1s,\"awG\",@nobits,_ZZ1fIiEvvE1s,comdat\n\t.type\t_ZZ1fIiEvvE1s, @gnu_unique_object\n\
                       \t.size\t_ZZ1fIiEvvE1s, 4\n_ZZ1fIiEvvE1s:\n\t.zero\t4\n\t.section\t.rodata._Z1x,\"aMSG\",@progbits,1,_Z1x,comdat\n\t.section\t.bss.global,\"aw\",@nobits\n\
                       \t.section\t.debug_types,\"G\",@progbits,wi.1,comdat\n";
        let expected = "\t.section\t.text._Z1fIiEvv,\"ax\",@progbits\n_Z1fIiEvv:\n\tcall\tother@PLT\n\
                        \t.weak\t__start_x\n\t.globl\tgridpoint_module_a\ngridpoint_module_a:\nkernel:\n\
                        \t.local\t_ZZ6kernelE1s\n\t.pushsection\tshared,\"aw\",@nobits\n\t.zero\t256\n\t.balign\t32\n\t.type\t_ZZ6kernelE1s, @object\n\
                        \t.size\t_ZZ6kernelE1s, 256\n_ZZ6kernelE1s:\n\t.zero\t256\n\t.popsection\n\
                        \t.section\tshared,\"aw\",@nobits\n\t.zero\t256\n\t.type\t_ZZ1fIiEvvE1s, @object\n\
                        \t.size\t_ZZ1fIiEvvE1s, 4\n_ZZ1fIiEvvE1s:\n\t.zero\t4\n\t.section\t.rodata._Z1x,\"aMS\",@progbits,1\n\t.section\t.bss.global,\"aw\",@nobits\n\
                        \t.section\t.debug_types,\"G\",@progbits,wi.1,comdat\n\
                        \t.section\tshared,\"aw\",@nobits\n\t.zero\t256\n\
                        \t.section\t.data.rel.ro.gridpoint_variables,\"aw\",@progbits\n\t.balign\t8\ngridpoint_variables:\n\
                        \t.quad\t_ZZ6kernelE1s, 256\n\t.quad\t_ZZ1fIiEvvE1s, 4\ngridpoint_variable_count:\n\t.quad\t2\n";
        assert_eq!(edit(listing, "shared"), expected);
    }

    #[test]
    fn rules_of_make_are_read() {
        assert_eq!(prerequisites("a.o: b.cu \\\n c/d\\ e.h \\\n  f.h\n"), ["b.cu", "c/d e.h", "f.h"]);
        assert!(prerequisites("").is_empty());
    }
}
