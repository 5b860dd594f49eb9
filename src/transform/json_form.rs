//! What canonical and plain JSON write otherwise than relaxed extended JSON does.

use super::base64;
use super::fault::Fault;
use super::json_text::{
    append_decimal128, append_double, append_hex, append_int, append_string, append_uuid,
};
use super::time::{Fraction, append_rfc3339};
use super::walk::Value;

/// Numbers and dates that relaxed JSON leaves bare are wrapped. `false`: relaxed JSON has the same.
pub(super) fn append_canonical(value: &Value<'_>, out: &mut Vec<u8>) -> bool {
    match *value {
        Value::Int32(int) => wrap(br#"{"$numberInt":""#, out, |out| append_int(i64::from(int), out)),
        Value::Int64(int) => wrap(br#"{"$numberLong":""#, out, |out| append_int(int, out)),
        Value::Double(double) if double.is_finite() && (double != 0.0 || double.is_sign_positive()) => {
            wrap(br#"{"$numberDouble":""#, out, |out| append_double(double, out));
        }
        Value::Date(milliseconds) => {
            wrap(br#"{"$date":{"$numberLong":""#, out, |out| append_int(milliseconds, out));
            out.push(b'}');
        }
        _ => return false,
    }
    true
}

fn wrap(head: &[u8], out: &mut Vec<u8>, number: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(head);
    number(out);
    out.extend_from_slice(b"\"}");
}

/// The value as text or a number whose BSON type can no longer be told. `false`: nothing was written, it
/// is as in relaxed JSON.
pub(super) fn append_plain(value: &Value<'_>, out: &mut Vec<u8>) -> Result<bool, Fault> {
    match *value {
        Value::ObjectId(id) => quote(out, |out| append_hex(id, out)),
        Value::Date(milliseconds) => {
            let start = out.len();
            out.push(b'"');
            if append_rfc3339(milliseconds, Fraction::Always, out).is_none() {
                out.truncate(start);
                return Ok(false);
            }
            out.push(b'"');
        }
        Value::Decimal128(bits) => {
            let start = out.len();
            append_decimal128(bits, out);
            // NaN and Infinity are no numbers of JSON.
            if out[start..].iter().any(u8::is_ascii_lowercase) {
                let word = out.split_off(start);
                quote(out, |out| out.extend_from_slice(&word));
            }
        }
        Value::Double(double) if double.is_nan() => out.extend_from_slice(b"\"NaN\""),
        Value::Double(f64::INFINITY) => out.extend_from_slice(b"\"Infinity\""),
        Value::Double(f64::NEG_INFINITY) => out.extend_from_slice(b"\"-Infinity\""),
        Value::Double(double) if double == 0.0 && double.is_sign_negative() => append_double(double, out),
        Value::Binary { subtype: 4, bytes } if bytes.len() == 16 => {
            let bytes = bytes.try_into().map_err(|_| Fault::malformed())?;
            quote(out, |out| append_uuid(bytes, out));
        }
        Value::Binary { subtype, bytes } if subtype != 2 => quote(out, |out| base64::append(bytes, out)),
        Value::Symbol(text) => append_string(text, out)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn quote(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use bson::{Bson, DateTime, Decimal128, doc, oid::ObjectId};

    use super::super::json::{Order, Style, append_document};
    use crate::config::JsonForm;

    fn json(value: impl Into<Bson>, form: JsonForm) -> (String, bool) {
        let mut out = Vec::new();
        let document = doc! { "": value.into() }.to_vec().unwrap();
        let style = Style { form, order: Order::AsStored };
        let lost = append_document(&document, &[], style, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        (text.strip_prefix("{\"\":").unwrap().strip_suffix('}').unwrap().to_owned(), lost)
    }

    #[test]
    fn canonical_json_wraps_every_number_and_date() {
        let canonical = |value: Bson| json(value, JsonForm::Canonical);
        for (value, text) in [
            (Bson::Int32(-5), r#"{"$numberInt":"-5"}"#),
            (Bson::Int64(5), r#"{"$numberLong":"5"}"#),
            (Bson::Double(1.5), r#"{"$numberDouble":"1.5"}"#),
            (Bson::Double(-0.0), r#"{"$numberDouble":"-0.0"}"#),
            (Bson::Double(f64::NAN), r#"{"$numberDouble":"NaN"}"#),
            (DateTime::from_millis(7).into(), r#"{"$date":{"$numberLong":"7"}}"#),
            (Bson::Array(vec![Bson::Int32(1), "a".into()]), r#"[{"$numberInt":"1"},"a"]"#),
            (doc! { "$oid": true }.into(), r#"{"$$oid":true}"#),
        ] {
            assert_eq!(canonical(value), (text.to_owned(), false));
        }
    }

    #[test]
    fn plain_json_has_no_wrappers_and_says_when_that_lost_a_type() {
        let plain = |value: Bson| json(value, JsonForm::Plain);
        let id = ObjectId::parse_str("5f43a1b2c3d4e5f60718293a").unwrap();
        let binary = |subtype, bytes| Bson::Binary(bson::Binary { subtype, bytes });
        for (value, text, lost) in [
            (Bson::Int32(-5), "-5", false),
            (Bson::Double(5.0), "5.0", false),
            (Bson::Double(f64::NEG_INFINITY), "\"-Infinity\"", true),
            (Decimal128::from_str("1.10").unwrap().into(), "1.10", true),
            (Decimal128::from_str("NaN").unwrap().into(), "\"NaN\"", true),
            (id.into(), "\"5f43a1b2c3d4e5f60718293a\"", true),
            (DateTime::from_millis(0).into(), "\"1970-01-01T00:00:00.000Z\"", true),
            (binary(bson::spec::BinarySubtype::Generic, vec![0xfb, 0xff]), "\"+/8=\"", true),
            (doc! { "$oid": true, "a": [null, "b"] }.into(), r#"{"$oid":true,"a":[null,"b"]}"#, false),
            (Bson::MaxKey, r#"{"$maxKey":1}"#, false),
        ] {
            assert_eq!(plain(value), (text.to_owned(), lost));
        }
    }
}
