//! docs/RELIABILITY.md keeps its word: every line names tests that exist, or what is not supported and where
//! that is told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const PAGE: &str = include_str!("../../docs/RELIABILITY.md");
/// Heads the list of what nothing proves.
const NOT_PROVED: &str = "Not proved yet";
const NOT_SUPPORTED: &str = "Not supported";

/// The list items below a heading, each on one line.
struct Section {
    heading: String,
    lines: Vec<String>,
}

fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push(Section { heading: heading.to_owned(), lines: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if let Some(item) = line.strip_prefix("- ") {
            section.lines.push(item.to_owned());
        } else if let (Some(rest), Some(item)) = (line.strip_prefix("  "), section.lines.last_mut()) {
            item.push(' ');
            item.push_str(rest.trim_start());
        }
    }
    sections
}

/// `module::test`, in the text's order.
fn named(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect()
}

fn source_of(module: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = module.replace("::", "/");
    let places = ["tests/it", "src"].map(|folder| root.join(folder).join(&path));
    let files = places.iter().flat_map(|place| [place.with_extension("rs"), place.join("mod.rs")]);
    let files: Vec<PathBuf> = files.filter(|file| file.is_file()).collect();
    ensure!(files.len() == 1, "{module} is the name of {} files", files.len());
    Ok(fs::read_to_string(&files[0])?)
}

/// Whether the file has a test of this name that is run.
fn has_test(source: &str, name: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {name}(")) else { return false };
    // Up to the line that `fn` stands in.
    let before = before.rsplit_once('\n').map_or("", |(before, _)| before);
    let mut attributes = before.lines().rev().map(str::trim).take_while(|line| line.starts_with("#["));
    attributes.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Each `[PAGE.md](PAGE.md): "words"` is a place where the page says these words.
fn told_elsewhere(note: &str) -> Result<usize> {
    let mut places = 0;
    for rest in note.split("](").skip(1) {
        let (page, rest) = rest.split_once("): \"").context("a page, and what it says in quotes")?;
        let (said, _) = rest.split_once('"').context("the end of the quotes")?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(words(&text).contains(&words(said)), "{page} does not say {said:?}");
        places += 1;
    }
    Ok(places)
}

#[test]
fn every_line_of_the_list_of_behaviours_names_a_test_that_exists_or_says_what_is_not_supported() -> Result<()>
{
    let sections = sections();
    let mut wrong = Vec::new();
    for section in sections.iter().filter(|section| section.heading != NOT_PROVED) {
        ensure!(!section.lines.is_empty(), "{} has no lines", section.heading);
        for line in &section.lines {
            let tests = named(line);
            for test in &tests {
                let (module, name) = test.rsplit_once("::").context("a module and a test")?;
                match source_of(module) {
                    Ok(source) if has_test(&source, name) => {}
                    Ok(_) => wrong.push(format!("there is no test {test}")),
                    Err(error) => wrong.push(format!("{test}: {error}")),
                }
            }
            if let Some((_, note)) = line.split_once(NOT_SUPPORTED) {
                match told_elsewhere(note) {
                    Ok(0) => wrong.push(format!("it is not told where that is told: {line}")),
                    Ok(_) => {}
                    Err(error) => wrong.push(format!("{error}: {line}")),
                }
            } else if tests.is_empty() {
                wrong.push(format!("without a test: {line}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "docs/RELIABILITY.md:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn what_is_not_proved_stands_at_the_end_and_names_no_test() -> Result<()> {
    let sections = sections();
    let last = sections.last().context("a section")?;
    ensure!(last.heading == NOT_PROVED, "the last section is {}", last.heading);
    let proved: Vec<&String> = last.lines.iter().filter(|line| !named(line).is_empty()).collect();
    ensure!(proved.is_empty(), "these name a test, and belong above: {proved:#?}");
    Ok(())
}
