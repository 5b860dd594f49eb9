//! Which documents belong to a mapping, as MongoDB's own `find` would choose them: paths go through arrays,
//! values are compared within their type, numbers by value whatever their type, and null is also what is
//! not there.

use std::cmp::Ordering;

use bson::Bson;

use super::decimal::{self, Decimal, Number, number, whole_double};
use super::expression::Evaluator;
use super::fault::Fault;
use super::walk::{ARRAY, DOCUMENT, Elements, Raw, Value};
use crate::config::{self, Test};
use crate::domain::Reason;

/// A filter made ready.
#[derive(Debug)]
pub(super) enum Filter {
    Conditions(Vec<Condition>),
    Expression(Box<Evaluator>),
}

#[derive(Debug)]
pub(super) struct Condition {
    steps: Vec<Box<[u8]>>,
    test: Test,
}

impl Filter {
    pub(super) fn new(filter: &config::Filter) -> Self {
        let conditions = match filter {
            config::Filter::Conditions(conditions) => conditions,
            config::Filter::Expression(expression) => {
                return Self::Expression(Box::new(Evaluator::new(expression)));
            }
        };
        let conditions = conditions.iter().map(|condition| Condition {
            steps: condition.path.split('.').map(|step| step.as_bytes().into()).collect(),
            test: condition.test.clone(),
        });
        Self::Conditions(conditions.collect())
    }

    pub(super) fn matches(&self, document: &[u8]) -> Result<bool, Fault> {
        let conditions = match self {
            Self::Conditions(conditions) => conditions,
            Self::Expression(evaluator) => {
                let result = evaluator.evaluate(document, None)?;
                return result.as_bool().ok_or_else(|| {
                    Fault::new(Reason::Expression, "the filter's expression gives neither true nor false")
                });
            }
        };
        for condition in conditions {
            if !condition.holds(document)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Condition {
    fn holds(&self, document: &[u8]) -> Result<bool, Fault> {
        let any = |accepts: &dyn Fn(Option<Value<'_>>) -> bool| {
            any_at(document, &self.steps, &mut |raw: Option<Raw<'_>>| {
                Ok(accepts(raw.map(Raw::value).transpose()?))
            })
        };
        let compares = |operand: &Bson, wanted: &[Ordering]| {
            any(&|value| compare(value, operand).is_some_and(|ordering| wanted.contains(&ordering)))
        };
        let equals = |operand: &Bson| compares(operand, &[Ordering::Equal]);
        match &self.test {
            Test::Equal(operand) => equals(operand),
            Test::NotEqual(operand) => equals(operand).map(|equal| !equal),
            Test::In(operands) => any_of(operands, equals),
            Test::NotIn(operands) => any_of(operands, equals).map(|found| !found),
            Test::Exists(wanted) => Ok(any(&|value| value.is_some())? == *wanted),
            Test::Less(operand) => compares(operand, &[Ordering::Less]),
            Test::LessOrEqual(operand) => compares(operand, &[Ordering::Less, Ordering::Equal]),
            Test::Greater(operand) => compares(operand, &[Ordering::Greater]),
            Test::GreaterOrEqual(operand) => compares(operand, &[Ordering::Greater, Ordering::Equal]),
        }
    }
}

fn any_of(operands: &[Bson], equals: impl Fn(&Bson) -> Result<bool, Fault>) -> Result<bool, Fault> {
    for operand in operands {
        if equals(operand)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any value at the path is accepted. `None` is a place where nothing is. As in the server: an array
/// on the way gives what its documents have there, or what a number in the path names; an array at the end
/// gives its elements, and itself.
fn any_at(
    document: &[u8],
    steps: &[Box<[u8]>],
    accepts: &mut impl FnMut(Option<Raw<'_>>) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    let [step, rest @ ..] = steps else { return Ok(false) };
    let mut found = None;
    for element in Elements::new(document)? {
        let (name, raw) = element?;
        if *name == **step {
            found = Some(raw);
            break;
        }
    }
    match found {
        None => accepts(None),
        Some(raw) if raw.element_type == ARRAY => any_in(raw, rest, accepts),
        Some(raw) if rest.is_empty() => accepts(Some(raw)),
        Some(raw) if raw.element_type == DOCUMENT => any_at(raw.bytes, rest, accepts),
        Some(_) => accepts(None),
    }
}

fn any_in(
    array: Raw<'_>,
    rest: &[Box<[u8]>],
    accepts: &mut impl FnMut(Option<Raw<'_>>) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    for (place, element) in Elements::new(array.bytes)?.enumerate() {
        let (_, raw) = element?;
        let [step, after @ ..] = rest else {
            if accepts(Some(raw))? {
                return Ok(true);
            }
            continue;
        };
        if raw.element_type == DOCUMENT && any_at(raw.bytes, rest, accepts)? {
            return Ok(true);
        }
        if step.as_ref() == place.to_string().as_bytes() {
            let found = match raw.element_type {
                _ if after.is_empty() => accepts(Some(raw))?,
                DOCUMENT => any_at(raw.bytes, after, accepts)?,
                ARRAY => any_in(raw, after, accepts)?,
                _ => false,
            };
            if found {
                return Ok(true);
            }
        }
    }
    if rest.is_empty() { accepts(Some(array)) } else { Ok(false) }
}

/// The order of a value and an operand of one type; `None` for those that have none: other types, NaN.
fn compare(value: Option<Value<'_>>, operand: &Bson) -> Option<Ordering> {
    let Some(value) = value else {
        return matches!(operand, Bson::Null).then_some(Ordering::Equal);
    };
    match (value, operand) {
        (Value::Null, Bson::Null) => Some(Ordering::Equal),
        (Value::Bool(value), Bson::Boolean(operand)) => Some(value.cmp(operand)),
        (Value::String(value) | Value::Symbol(value), Bson::String(operand)) => {
            Some(value.cmp(operand.as_bytes()))
        }
        (Value::Date(value), Bson::DateTime(operand)) => Some(value.cmp(&operand.timestamp_millis())),
        (Value::ObjectId(value), Bson::ObjectId(operand)) => Some(value.cmp(&operand.bytes())),
        (value, Bson::Int32(operand)) => compare_numbers(&value, &Value::Int32(*operand)),
        (value, Bson::Int64(operand)) => compare_numbers(&value, &Value::Int64(*operand)),
        (value, Bson::Double(operand)) => compare_numbers(&value, &Value::Double(*operand)),
        (value, Bson::Decimal128(operand)) => {
            compare_numbers(&value, &Value::Decimal128(u128::from_le_bytes(operand.bytes())))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) fn same(value: &Value<'_>, other: &Bson) -> bool {
    compare(Some(*value), other) == Some(Ordering::Equal)
}

/// By value, exactly: the double 0.1 is a little more than the decimal 0.1. NaN is equal to NaN alone.
fn compare_numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        return Some(left.cmp(&right));
    }
    let (mut left_digits, mut right_digits) = (Vec::new(), Vec::new());
    let (left, right) = (exact(left, &mut left_digits)?, exact(right, &mut right_digits)?);
    let sign = |negative| if negative { Ordering::Less } else { Ordering::Greater };
    match (left, right) {
        (Number::NaN, Number::NaN) => Some(Ordering::Equal),
        (Number::NaN, _) | (_, Number::NaN) => None,
        (Number::Infinity { negative: left }, Number::Infinity { negative: right }) => Some(right.cmp(&left)),
        (Number::Infinity { negative }, Number::Finite(_)) => Some(sign(negative)),
        (Number::Finite(_), Number::Infinity { negative }) => Some(sign(negative).reverse()),
        (Number::Finite(left), Number::Finite(right)) => Some(compare_decimals(left, right)),
    }
}

fn whole(value: &Value<'_>) -> Option<i64> {
    match *value {
        Value::Int32(int) => Some(i64::from(int)),
        Value::Int64(int) => Some(int),
        Value::Double(double) => whole_double(double),
        _ => None,
    }
}

/// All digits of the number, those of a double too: 0.1 has 55 of them.
fn exact<'d>(value: &Value<'_>, digits: &'d mut Vec<u8>) -> Option<Number<'d>> {
    /// No finite double has more.
    const DOUBLE_DIGITS: usize = 767;
    if let Value::Double(double) = value
        && double.is_finite()
    {
        let text = format!("{double:.DOUBLE_DIGITS$e}");
        return decimal::parse(text.as_bytes(), digits).map(Number::Finite);
    }
    let mut buffer = [0; 40];
    Some(match number(value, &mut buffer)? {
        Number::Finite(decimal) => {
            digits.extend_from_slice(decimal.digits);
            Number::Finite(Decimal { digits, ..decimal })
        }
        Number::NaN => Number::NaN,
        Number::Infinity { negative } => Number::Infinity { negative },
    })
}

fn compare_decimals(left: Decimal<'_>, right: Decimal<'_>) -> Ordering {
    let (left, right) = (left.stripped(), right.stripped());
    let sign = |decimal: Decimal<'_>| match (decimal.is_zero(), decimal.negative) {
        (true, _) => 0,
        (false, true) => -1,
        (false, false) => 1,
    };
    let by_sign = sign(left).cmp(&sign(right));
    if by_sign != Ordering::Equal || left.is_zero() {
        return by_sign;
    }
    // Without zeros at either end, digits compare as text does once their first places are the same.
    let top = |decimal: Decimal<'_>| i64::from(decimal.exponent) + decimal.digits.len() as i64;
    let size = top(left).cmp(&top(right)).then_with(|| left.digits.cmp(right.digits));
    if left.negative { size.reverse() } else { size }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
