//! Who gets which key. Pure: what the state knows and what a batch wants go in, a verdict for each document
//! comes out.
//!
//! The first document to claim a key has it until it leaves: it is deleted, or wants another key and gets it.
//! Of two that come at once, the one with the lower source_id is the first.

use std::collections::HashMap;

use crate::domain::RowKey;
use crate::state::row::Claim;

/// A document of the batch and the key it is to have. In the order of the source_ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) source_id: &'a str,
    pub(super) key: &'a RowKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has this key already.
    Stays,
    /// Its row was there before it, and keeps its own key.
    StaysAdopted,
    /// Nobody has the key.
    Takes,
    /// The document with this claim, by number, is gone while its row stays: this one takes the row over.
    TakesOver(usize),
    /// Its row moves to the key, as part of a set.
    Moves,
    /// It had no row, and takes a key that a set leaves.
    Follows,
    /// Somebody else has the key.
    Held(Holder),
}

/// Who has the key instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// By number, of the claims that were given.
    Claim(usize),
    /// By number, of the wishes.
    Wish(usize),
}

/// Documents whose keys depend on each other: each takes the key that the one before it leaves, so that all of
/// them succeed, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    /// Numbers of wishes, in the order in which they take their keys.
    pub(super) members: Vec<usize>,
    /// The first one takes the key that the last one leaves, too.
    pub(super) circle: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// One for each wish.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) sets: Vec<Set>,
}

/// What a contender for a key finds there.
#[derive(Debug, Clone, Copy)]
enum Ahead {
    Free,
    Kept(usize),
    /// A document of the batch that wants another key itself.
    Mover(usize),
    Blocked(Holder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walked {
    Not,
    Here,
    InSet(usize),
    Held,
}

/// `claims`: those of the batch's documents, and those of the keys that are wanted. Documents that leave
/// with the batch have none any more.
pub(super) fn decide(source: &str, wishes: &[Wish<'_>], claims: &[Claim]) -> Decision {
    let own: HashMap<&str, &Claim> = claims
        .iter()
        .filter(|claim| claim.source == source)
        .map(|claim| (claim.source_id.as_str(), claim))
        .collect();
    let owners: HashMap<&RowKey, usize> =
        claims.iter().enumerate().filter_map(|(number, claim)| Some((claim.key.as_ref()?, number))).collect();
    let mut verdicts: Vec<Option<Verdict>> = wishes
        .iter()
        .map(|wish| match own.get(wish.source_id) {
            Some(claim) if claim.adopted => Some(Verdict::StaysAdopted),
            Some(claim) if claim.key.as_ref() == Some(wish.key) => Some(Verdict::Stays),
            Some(_) | None => None,
        })
        .collect();
    let mut first: HashMap<&RowKey, usize> = HashMap::new();
    let mut contenders: HashMap<&str, usize> = HashMap::new();
    for (number, wish) in wishes.iter().enumerate().filter(|(number, _)| verdicts[*number].is_none()) {
        first.entry(wish.key).or_insert(number);
        contenders.insert(wish.source_id, number);
    }
    let ahead = |number: usize| {
        let Some(&owner) = owners.get(wishes[number].key) else { return Ahead::Free };
        let claim = &claims[owner];
        if claim.kept {
            return Ahead::Kept(owner);
        }
        let of_batch = (claim.source == source).then(|| contenders.get(claim.source_id.as_str())).flatten();
        match of_batch {
            // It leaves only if it is the first where it wants to go.
            Some(&mover) if first.get(wishes[mover].key) == Some(&mover) => Ahead::Mover(mover),
            Some(_) | None => Ahead::Blocked(Holder::Claim(owner)),
        }
    };
    let mut walked = vec![Walked::Not; wishes.len()];
    let mut sets: Vec<Set> = Vec::new();
    let mut firsts: Vec<usize> = first.values().copied().collect();
    firsts.sort_unstable();
    for start in firsts {
        walk(start, &ahead, &mut walked, &mut sets);
    }
    let has_row = |number: usize| own.get(wishes[number].source_id).is_some_and(|claim| claim.key.is_some());
    for number in contenders.values().copied() {
        let winner = first[wishes[number].key];
        let holder = || match ahead(winner) {
            Ahead::Blocked(holder) => holder,
            Ahead::Mover(mover) => {
                owners.get(wishes[winner].key).map_or(Holder::Wish(mover), |owner| Holder::Claim(*owner))
            }
            Ahead::Free | Ahead::Kept(_) => Holder::Wish(winner),
        };
        verdicts[number] = Some(match (walked[winner], ahead(number)) {
            (Walked::InSet(_), _) if winner != number => Verdict::Held(Holder::Wish(winner)),
            (Walked::InSet(_), Ahead::Kept(claim)) if !has_row(number) => Verdict::TakesOver(claim),
            (Walked::InSet(_), _) if has_row(number) => Verdict::Moves,
            (Walked::InSet(_), Ahead::Mover(_)) => Verdict::Follows,
            (Walked::InSet(_), _) => Verdict::Takes,
            (Walked::Not | Walked::Here | Walked::Held, _) => Verdict::Held(holder()),
        });
    }
    sets.retain(|set| set.members.len() > 1 || set.members.iter().any(|member| has_row(*member)));
    let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or(Verdict::Stays)).collect();
    Decision { verdicts, sets }
}

/// Follows one contender to the end of its chain: a key that is free, one that is not, or itself.
fn walk(start: usize, ahead: &impl Fn(usize) -> Ahead, walked: &mut [Walked], sets: &mut Vec<Set>) {
    let mut path = Vec::new();
    let mut next = start;
    let set = loop {
        match walked[next] {
            Walked::InSet(set) => break Some(set),
            Walked::Held => break None,
            // A key has one first contender, so that nothing but the circle itself leads into it.
            Walked::Here => {
                let mut members = vec![next];
                members.extend(path.drain(1..).rev());
                members.iter().for_each(|member| walked[*member] = Walked::InSet(sets.len()));
                sets.push(Set { members, circle: true });
                return;
            }
            Walked::Not => {}
        }
        walked[next] = Walked::Here;
        path.push(next);
        match ahead(next) {
            Ahead::Mover(mover) => next = mover,
            Ahead::Blocked(_) => break None,
            Ahead::Free | Ahead::Kept(_) => {
                sets.push(Set { members: Vec::new(), circle: false });
                break Some(sets.len() - 1);
            }
        }
    };
    for member in path.into_iter().rev() {
        walked[member] = match set {
            Some(set) => {
                sets[set].members.push(member);
                Walked::InSet(set)
            }
            None => Walked::Held,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CanonicalId;

    fn key(text: &str) -> RowKey {
        RowKey::of_text(text)
    }

    /// `id@key`; `id@` waits; `id@key!` is kept, `id@key=` adopted; `other/id@key` is of another mapping.
    fn claim(text: &str) -> Claim {
        let (source, rest) = text.split_once('/').unwrap_or(("ours", text));
        let (id, place) = rest.split_once('@').expect("an @");
        let plain = place.trim_end_matches(['!', '=']);
        Claim {
            source: source.into(),
            source_id: id.into(),
            id: CanonicalId::from_bytes(id.as_bytes()),
            key: (!plain.is_empty()).then(|| key(plain)),
            wants: None,
            adopted: place.ends_with('='),
            kept: place.ends_with('!'),
            collected: None,
        }
    }

    /// Wishes are `id@key`. Says the verdicts, then the sets.
    fn decided(wishes: &[&str], claims: &[&str]) -> String {
        let wishes: Vec<(&str, RowKey)> = wishes
            .iter()
            .map(|wish| wish.split_once('@').map(|(id, place)| (id, key(place))).expect("an @"))
            .collect();
        let claims: Vec<Claim> = claims.iter().map(|text| claim(text)).collect();
        let given: Vec<Wish<'_>> = wishes.iter().map(|(source_id, key)| Wish { source_id, key }).collect();
        let decision = decide("ours", &given, &claims);
        let mut lines: Vec<String> = decision
            .verdicts
            .iter()
            .zip(&given)
            .map(|(verdict, wish)| {
                let what = match verdict {
                    Verdict::Stays => "stays".to_owned(),
                    Verdict::StaysAdopted => "stays adopted".to_owned(),
                    Verdict::Takes => "takes".to_owned(),
                    Verdict::TakesOver(claim) => format!("takes over from {}", claims[*claim].source_id),
                    Verdict::Moves => "moves".to_owned(),
                    Verdict::Follows => "follows".to_owned(),
                    Verdict::Held(Holder::Claim(claim)) => {
                        format!("held by {}/{}", claims[*claim].source, claims[*claim].source_id)
                    }
                    Verdict::Held(Holder::Wish(wish)) => format!("held by {}", given[*wish].source_id),
                };
                format!("{} {what}", wish.source_id)
            })
            .collect();
        for set in &decision.sets {
            let members: Vec<&str> = set.members.iter().map(|member| given[*member].source_id).collect();
            lines.push(format!("{}: {}", if set.circle { "circle" } else { "set" }, members.join(" ")));
        }
        lines.join("; ")
    }

    #[test]
    fn the_first_claim_stands_and_the_same_key_again_changes_nothing() {
        assert_eq!(decided(&["a@1"], &[]), "a takes");
        assert_eq!(decided(&["a@1"], &["a@1"]), "a stays");
        assert_eq!(decided(&["a@1"], &["a@"]), "a takes");
        assert_eq!(decided(&["a@1", "b@2"], &["b@2"]), "a takes; b stays");
    }

    #[test]
    fn a_key_that_somebody_has_is_held_whoever_it_is() {
        assert_eq!(decided(&["b@1"], &["a@1"]), "b held by ours/a");
        assert_eq!(decided(&["a@1"], &["other/a@1"]), "a held by other/a");
        assert_eq!(decided(&["a@1", "b@1"], &[]), "a takes; b held by a");
        assert_eq!(decided(&["a@1", "b@1"], &["b@1"]), "a held by ours/b; b stays");
        assert_eq!(decided(&["a@1", "b@1"], &["c@1"]), "a held by ours/c; b held by ours/c");
    }

    #[test]
    fn a_row_moves_where_the_new_key_is_free() {
        assert_eq!(decided(&["a@2"], &["a@1"]), "a moves; set: a");
        assert_eq!(decided(&["a@2"], &["a@1", "b@2"]), "a held by ours/b");
        assert_eq!(decided(&["a@9", "b@9"], &["a@1", "b@2"]), "a moves; b held by a; set: a");
    }

    #[test]
    fn a_chain_is_one_set_that_begins_where_the_key_is_free() {
        let claims = ["a@1", "b@2", "c@3"];
        assert_eq!(decided(&["a@2", "b@3", "c@4"], &claims), "a moves; b moves; c moves; set: c b a");
        assert_eq!(decided(&["c@4", "b@3", "a@2"], &claims), "c moves; b moves; a moves; set: c b a");
        assert_eq!(decided(&["b@3", "c@4", "n@2"], &claims), "b moves; c moves; n follows; set: c b n");
    }

    #[test]
    fn a_chain_that_ends_at_a_taken_key_is_held_as_a_whole() {
        let claims = ["a@1", "b@2", "x@3"];
        assert_eq!(
            decided(&["a@2", "b@3", "n@1"], &claims),
            "a held by ours/b; b held by ours/x; n held by ours/a"
        );
    }

    #[test]
    fn documents_that_exchange_their_keys_are_a_circle() {
        assert_eq!(decided(&["a@2", "b@1"], &["a@1", "b@2"]), "a moves; b moves; circle: a b");
        let claims = ["a@1", "b@2", "c@3"];
        assert_eq!(decided(&["a@2", "b@3", "c@1"], &claims), "a moves; b moves; c moves; circle: a c b");
        // The circle is closed to a fourth.
        assert_eq!(
            decided(&["a@2", "b@1", "n@1"], &["a@1", "b@2"]),
            "a moves; b moves; n held by b; circle: a b"
        );
    }

    #[test]
    fn a_row_whose_document_is_gone_is_taken_over() {
        assert_eq!(decided(&["b@1"], &["a@1!"]), "b takes over from a");
        assert_eq!(decided(&["a@1"], &["a@1!"]), "a stays");
    }

    #[test]
    fn an_adopted_row_keeps_its_key_whatever_its_document_says() {
        assert_eq!(decided(&["a@7"], &["a@42="]), "a stays adopted");
        assert_eq!(decided(&["a@7", "b@42"], &["a@42="]), "a stays adopted; b held by ours/a");
    }
}
