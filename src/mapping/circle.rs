//! Circles of references: each row waits for the next, and none can be the first.

use std::collections::HashMap;

use super::compile::Mapping;
use super::problem::Problem;
use super::reference::{Finder, MissingPlan, ReferencePlan};
use crate::domain::{Table, TableName};

/// Circles in which no document could ever have a row, and those in which some documents could not.
pub(super) fn circles(mappings: &[Mapping], tables: &HashMap<TableName, Table>) -> Vec<Problem> {
    let waiting = Waiting { mappings, tables };
    let mut found = Vec::new();
    // Whoever is in a circle that was told.
    let mut told = vec![false; mappings.len()];
    while let Some(circle) = waiting.circle_without_beginning(&told) {
        found.push(waiting.problem(&circle, true));
        circle.iter().for_each(|step| told[step.from] = true);
    }
    for start in 0..mappings.len() {
        if !told[start]
            && let Some(circle) = waiting.circle_through(start, &told)
        {
            found.push(waiting.problem(&circle, false));
            circle.iter().for_each(|step| told[step.from] = true);
        }
    }
    found
}

/// A reference that is waited for, from one mapping to another.
#[derive(Debug, Clone)]
struct Step {
    from: usize,
    column: String,
    to: usize,
}

struct Waiting<'a> {
    mappings: &'a [Mapping],
    tables: &'a HashMap<TableName, Table>,
}

impl Waiting<'_> {
    /// Mappings whose rows this finder may find.
    fn targets(&self, finder: &Finder) -> Vec<usize> {
        let is_target = |mapping: &Mapping| match &finder.target {
            Some(target) => target.index == mapping.index,
            None => finder.table == mapping.table,
        };
        (0..self.mappings.len()).filter(|place| is_target(&self.mappings[*place])).collect()
    }

    /// Whether some row of this reference's may be there before any of these mappings has written one.
    fn may_begin(&self, reference: &ReferencePlan, grounded: &[bool]) -> bool {
        reference.finders.iter().any(|finder| {
            let targets = self.targets(finder);
            let has_rows = self.tables.get(&finder.table).is_none_or(|table| !table.is_empty);
            has_rows || targets.is_empty() || targets.into_iter().any(|target| grounded[target])
        })
    }

    /// References without which a document has no row, whatever it says.
    fn needed(mapping: &Mapping) -> impl Iterator<Item = &ReferencePlan> {
        mapping.references.iter().filter(|reference| {
            matches!(reference.missing, MissingPlan::Hold)
                && reference.element.is_none()
                && mapping.columns[reference.column].not_null
        })
    }

    /// `told`: taken for mappings that can have rows.
    fn circle_without_beginning(&self, told: &[bool]) -> Option<Vec<Step>> {
        let mut grounded = told.to_vec();
        loop {
            let next = (0..self.mappings.len()).find(|place| {
                !grounded[*place]
                    && Self::needed(&self.mappings[*place])
                        .all(|reference| self.may_begin(reference, &grounded))
            });
            match next {
                Some(place) => grounded[place] = true,
                None => break,
            }
        }
        let mut at = grounded.iter().position(|is_grounded| !is_grounded)?;
        let mut path: Vec<Step> = Vec::new();
        loop {
            if let Some(start) = path.iter().position(|step| step.from == at) {
                return Some(path.split_off(start));
            }
            let mapping = &self.mappings[at];
            let reference = Self::needed(mapping).find(|reference| !self.may_begin(reference, &grounded))?;
            let to = *self.targets(reference.finders.first()?).first()?;
            path.push(Step { from: at, column: mapping.columns[reference.column].name.clone(), to });
            at = to;
        }
    }

    /// Everything that this mapping's documents may have to wait for, their children's rows among it.
    fn steps(&self, from: usize) -> Vec<Step> {
        let mapping = &self.mappings[from];
        let all = std::iter::once(mapping).chain(mapping.children.iter().map(|child| &child.mapping));
        let held = all.flat_map(|of| {
            let parent = mapping.children.iter().find(|child| std::ptr::eq(&child.mapping, of));
            let parent = parent.map(|child| child.parent);
            let references = of.references.iter().filter(move |reference| Some(reference.column) != parent);
            references
                .filter(|reference| matches!(reference.missing, MissingPlan::Hold))
                .map(move |reference| (&of.columns[reference.column].name, reference))
        });
        held.flat_map(|(column, reference)| {
            let targets = reference.finders.iter().flat_map(|finder| self.targets(finder));
            targets.map(|to| Step { from, column: column.clone(), to }).collect::<Vec<_>>()
        })
        .collect()
    }

    /// A shortest way from a mapping back to itself.
    fn circle_through(&self, start: usize, told: &[bool]) -> Option<Vec<Step>> {
        let mut paths: Vec<Vec<Step>> = self.steps(start).into_iter().map(|step| vec![step]).collect();
        let mut seen = told.to_vec();
        while !paths.is_empty() {
            let mut longer = Vec::new();
            for path in paths {
                let to = path.last()?.to;
                if to == start {
                    return Some(path);
                }
                if !std::mem::replace(&mut seen[to], true) {
                    longer.extend(self.steps(to).into_iter().map(|step| [&path[..], &[step]].concat()));
                }
            }
            paths = longer;
        }
        None
    }

    fn problem(&self, circle: &[Step], is_fatal: bool) -> Problem {
        let name = |place: usize| self.mappings[place].source.as_str();
        // Told alike wherever it was entered.
        let mut circle = circle.to_vec();
        let least = (0..circle.len()).min_by_key(|place| name(circle[*place].from));
        circle.rotate_left(least.unwrap_or_default());
        let first = &self.mappings[circle[0].from];
        let steps: Vec<String> = circle
            .iter()
            .map(|step| format!("{}.{} waits for {}", name(step.from), step.column, name(step.to)))
            .collect();
        let (message, hint) = if is_fatal {
            (
                "no row can come first: each needs one that is not there, and no column may be null",
                "drop the not null of one of the columns and say missing: null there, or say missing: { create: … }",
            )
        } else {
            (
                "documents that refer to each other in a circle, or to themselves, are held and wait for good",
                "say missing: null for one of the columns: it is filled as soon as the row is there",
            )
        };
        Problem {
            source: first.source.clone(),
            table: first.table.clone(),
            column: Some(circle[0].column.clone()),
            message: format!("{message}: {}", steps.join(", ")),
            hint: hint.to_owned(),
            fatal: is_fatal,
        }
    }
}
