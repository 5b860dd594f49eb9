use bson::{Document, doc};
use proptest::prelude::*;

use super::*;

fn matches(document: &Document, path: &str, test: Test) -> bool {
    let condition = config::Condition { path: path.to_owned(), test };
    let filter = Filter::new(&config::Filter::Conditions(vec![condition]));
    filter.matches(&document.to_vec().unwrap()).unwrap()
}

fn equals(document: &Document, path: &str, operand: impl Into<Bson>) -> bool {
    matches(document, path, Test::Equal(operand.into()))
}

#[test]
fn null_is_also_what_is_not_there() {
    assert!(equals(&doc! {}, "a", Bson::Null) && equals(&doc! { "a": null }, "a", Bson::Null));
    assert!(equals(&doc! { "a": 1 }, "a.b", Bson::Null) && equals(&doc! { "a": {} }, "a.b", Bson::Null));
    assert!(!equals(&doc! { "a": 1 }, "a", Bson::Null) && !equals(&doc! { "a": [1] }, "a.b", Bson::Null));
    assert!(!matches(&doc! {}, "a", Test::NotEqual(Bson::Null)));
    assert!(matches(&doc! {}, "a", Test::NotEqual(true.into())));
    assert!(matches(&doc! { "a": null }, "a", Test::Exists(true)));
    assert!(matches(&doc! {}, "a", Test::Exists(false)));
}

#[test]
fn paths_go_through_arrays() {
    let document = doc! { "tags": ["a", "b"], "lines": [{ "n": 1 }, { "n": [2, 3] }, 4], "deep": [[5]] };
    assert!(equals(&document, "tags", "b") && equals(&document, "tags.1", "b"));
    assert!(!equals(&document, "tags.0", "b"));
    for n in [1, 2, 3] {
        assert!(equals(&document, "lines.n", n), "{n}");
    }
    assert!(equals(&document, "lines.1.n", 3) && !equals(&document, "lines.0.n", 3));
    assert!(!equals(&document, "lines.n", 4) && equals(&document, "lines", 4));
    assert!(equals(&document, "deep.0.0", 5) && !equals(&document, "deep.0", 5));
    assert!(!matches(&document, "tags", Test::NotEqual("a".into())));
}

#[test]
fn values_are_compared_within_their_type() {
    let greater = |value: Bson, operand: Bson| matches(&doc! { "a": value }, "a", Test::Greater(operand));
    assert!(greater("b".into(), "a".into()) && !greater("b".into(), 1.into()));
    assert!(!greater(true.into(), 0.into()) && greater(true.into(), false.into()));
    assert!(!greater(Bson::Null, Bson::Null));
    assert!(matches(&doc! { "a": null }, "a", Test::GreaterOrEqual(Bson::Null)));
    assert!(!greater(f64::NAN.into(), 1_i64.into()) && !greater(1.into(), f64::NAN.into()));
    assert!(equals(&doc! { "a": f64::NAN }, "a", f64::NAN));
}

#[test]
fn numbers_are_compared_exactly_across_their_types() {
    let decimal = |text: &str| Bson::from(text.parse::<bson::Decimal128>().unwrap());
    let order = |left: Bson, right: Bson| {
        let document = doc! { "a": left };
        match () {
            () if matches(&document, "a", Test::Less(right.clone())) => Ordering::Less,
            () if matches(&document, "a", Test::Greater(right.clone())) => Ordering::Greater,
            () => {
                assert!(equals(&document, "a", right));
                Ordering::Equal
            }
        }
    };
    assert_eq!(order(1.into(), 1.0.into()), Ordering::Equal);
    assert_eq!(order(decimal("1.00"), 1_i64.into()), Ordering::Equal);
    assert_eq!(order(0.1.into(), decimal("0.1")), Ordering::Greater);
    assert_eq!(order(0.5.into(), decimal("0.50")), Ordering::Equal);
    assert_eq!(order(9_007_199_254_740_993_i64.into(), 9_007_199_254_740_992.0.into()), Ordering::Greater);
    assert_eq!(order(i64::MAX.into(), 9_223_372_036_854_775_808.0.into()), Ordering::Less);
    assert_eq!(order((-0.0).into(), 0_i64.into()), Ordering::Equal);
    assert_eq!(order(f64::NEG_INFINITY.into(), decimal("-9E6000")), Ordering::Less);
    assert_eq!(order(5e-324.into(), decimal("0")), Ordering::Greater);
    assert_eq!(order((-1.5).into(), decimal("-1.25")), Ordering::Less);
}

proptest! {
    #[test]
    fn doubles_are_ordered_as_they_are(left in any::<f64>(), right in any::<f64>()) {
        let (one, other) = (Value::Double(left), Value::Double(right));
        if !left.is_nan() && !right.is_nan() {
            prop_assert_eq!(compare_numbers(&one, &other), left.partial_cmp(&right));
        }
    }

    #[test]
    fn whole_numbers_are_ordered_as_they_are(left in any::<i64>(), right in any::<i64>()) {
        let decimal = |value: i64| value.to_string().parse::<bson::Decimal128>().unwrap();
        let value = Value::Decimal128(u128::from_le_bytes(decimal(right).bytes()));
        prop_assert_eq!(compare_numbers(&Value::Int64(left), &value), Some(left.cmp(&right)));
    }
}
