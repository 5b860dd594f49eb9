//! CEL expressions over a document, compiled when the file is read: what is wrong with one is a mistake of
//! the configuration, with its place.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::extensions::{lists, math, strings};
use cel::{Context, Env, ExecutionError, ParseErrors, Program};

use super::tree::Field;

/// The variable that holds the document.
pub const DOCUMENT: &str = "doc";
/// Where rows are made of elements: the element, and its place from 0.
pub const ELEMENT: &str = "element";
pub const INDEX: &str = "index";

/// Longer ones belong into a transformer of one's own.
const BYTES: usize = 4_000;

/// The evaluator recurses, on a stack that is not its own.
const NESTING: usize = 30;
/// What the parser can be given, whose stack is large.
const BRACKETS: usize = 100;
const OPERATORS: usize = 500;

/// Names that the language itself gives a meaning, beside variables.
const OF_THE_LANGUAGE: [&str; 15] = [
    "bool",
    "bytes",
    "double",
    "dyn",
    "duration",
    "google",
    "int",
    "list",
    "map",
    "math",
    "null_type",
    "optional",
    "string",
    "type",
    "uint",
];

/// What functions are found in.
const LIBRARIES: [&str; 3] = ["lists", "math", "optional"];

#[derive(Clone)]
pub struct Expression {
    text: String,
    program: Arc<Program>,
    fields: FieldsOfDocument,
    of_element: bool,
}

/// What an expression is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Document,
    /// An element of a document, and the document around it.
    Element,
}

impl About {
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Document => &[DOCUMENT],
            Self::Element => &[DOCUMENT, ELEMENT, INDEX],
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Document => "only doc is",
            Self::Element => "only doc, element and index are",
        }
    }
}

/// Which top-level fields of the document an expression can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldsOfDocument {
    All,
    Named(BTreeSet<String>),
}

/// What every expression knows: the standard functions, and those for text, lists and numbers.
pub fn environment() -> Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let mut environment = Env::stdlib();
        for extension in [strings, lists, math] {
            // Only a function that is declared twice is refused, which these are not.
            let _ = environment.add_extension(extension);
        }
        Arc::new(environment)
    });
    Arc::clone(environment)
}

impl Expression {
    /// # Errors
    /// Every mistake, with its line and column.
    pub fn compile(text: &str, about: About) -> Result<Self, Vec<String>> {
        if text.len() > BYTES {
            return Err(vec![format!("it is longer than {BYTES} bytes")]);
        }
        if brackets(text) > BRACKETS {
            return Err(vec![format!("it has more than {BRACKETS} brackets inside of each other")]);
        }
        if text.bytes().filter(|byte| b".+-*/%!<>=&|?:,".contains(byte)).count() > OPERATORS {
            return Err(vec![format!("it has more than {OPERATORS} operators")]);
        }
        let program = parse(text)?;
        let fields = FieldsOfDocument::Named(BTreeSet::new());
        let mut names = Names { fields, of_element: false, unknown: Vec::new(), depth: 0, deepest: 0 };
        names.walk(program.expression(), &mut about.variables().to_vec());
        if names.deepest > NESTING {
            return Err(vec![format!("it is nested more than {NESTING} times")]);
        }
        let Names { fields, of_element, unknown, .. } = names;
        if unknown.is_empty() {
            return Ok(Self { text: text.to_owned(), program: Arc::new(program), fields, of_element });
        }
        let message = |(id, unknown): (u64, Unknown)| {
            let offset = program.source_info().offset_for(id).map_or(0, |(start, _)| start as usize);
            let (line, column) = place(text, offset);
            match unknown {
                Unknown::Name(name) => {
                    format!("line {line}, column {column}: {name} is not known, {}", about.told())
                }
                Unknown::Function(name) => {
                    format!("line {line}, column {column}: there is no function {name}")
                }
            }
        };
        Err(unknown.into_iter().map(message).collect())
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn fields(&self) -> &FieldsOfDocument {
        &self.fields
    }

    /// Whether it looks at an element or its place.
    pub fn is_of_element(&self) -> bool {
        self.of_element
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

/// Of a key in the file; mistakes are reported.
pub(super) fn expression(field: &Field<'_>) -> Option<Expression> {
    let about = if field.is_of_child() { About::Element } else { About::Document };
    match Expression::compile(&field.text()?, about) {
        Ok(expression) => Some(expression),
        Err(messages) => {
            for message in messages {
                field.mistake("must be an expression in CEL", &message);
            }
            None
        }
    }
}

/// The parser's frames are large: it gets a stack of its own, which is more than the bounds above can need.
fn parse(text: &str) -> Result<Program, Vec<String>> {
    const STACK: usize = 64 * 1024 * 1024;
    let parsed = std::thread::scope(|scope| {
        let parse = || environment().compile(text).map_err(|errors| messages(&errors));
        let parser = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse);
        parser.map(std::thread::ScopedJoinHandle::join)
    });
    match parsed {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(_)) | Err(_) => Err(vec!["it cannot be parsed".to_owned()]),
    }
}

/// At least as deep as what the parser sees: brackets in texts count as well, and choices never end.
fn brackets(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'?' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn messages(errors: &ParseErrors) -> Vec<String> {
    let message = |error: &cel::ParseError| {
        let text = error.msg.lines().next().unwrap_or_default();
        format!("line {}, column {}: {text}", error.pos.0, error.pos.1)
    };
    errors.errors.iter().map(message).collect()
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// What an expression uses and nobody knows.
enum Unknown {
    Name(String),
    Function(String),
}

struct Names {
    fields: FieldsOfDocument,
    of_element: bool,
    unknown: Vec<(u64, Unknown)>,
    depth: usize,
    deepest: usize,
}

impl Names {
    fn walk<'e>(&mut self, expression: &'e IdedExpr, known: &mut Vec<&'e str>) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        self.walk_into(expression, known);
        self.depth -= 1;
    }

    fn walk_into<'e>(&mut self, expression: &'e IdedExpr, known: &mut Vec<&'e str>) {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) if name.starts_with('@') => {}
            Expr::Ident(name) if is_document(name, known) => self.fields = FieldsOfDocument::All,
            Expr::Ident(name) => {
                self.of_element |= [ELEMENT, INDEX].contains(&name.as_str());
                if !known.contains(&name.as_str()) && !OF_THE_LANGUAGE.contains(&name.as_str()) {
                    self.unknown.push((expression.id, Unknown::Name(name.clone())));
                }
            }
            Expr::Select(select) => match (&select.operand.expr, &mut self.fields) {
                (Expr::Ident(name), FieldsOfDocument::Named(fields)) if is_document(name, known) => {
                    fields.insert(select.field.clone());
                }
                (Expr::Ident(name), FieldsOfDocument::All) if is_document(name, known) => {}
                _ => self.walk(&select.operand, known),
            },
            Expr::Call(call) => {
                if !is_function(call) {
                    self.unknown.push((expression.id, Unknown::Function(call.func_name.clone())));
                }
                let target = call.target.iter().map(Box::as_ref).filter(|target| !is_library(target));
                for part in target.chain(&call.args) {
                    self.walk(part, known);
                }
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk(element, known)),
            Expr::Map(map) => self.entries(&map.entries, known),
            Expr::Struct(structure) => self.entries(&structure.entries, known),
            Expr::Comprehension(comprehension) => {
                self.walk(&comprehension.iter_range, known);
                self.walk(&comprehension.accu_init, known);
                let outside = known.len();
                known.push(&comprehension.iter_var);
                known.extend(comprehension.iter_var2.as_deref());
                known.push(&comprehension.accu_var);
                for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                    self.walk(part, known);
                }
                known.truncate(outside);
            }
        }
    }

    fn entries<'e>(&mut self, entries: &'e [IdedEntryExpr], known: &mut Vec<&'e str>) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.walk(&field.value, known),
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key, known);
                    self.walk(&entry.value, known);
                }
            }
        }
    }
}

/// Not one of an inner loop that happens to have its name.
fn is_document(name: &str, known: &[&str]) -> bool {
    name == DOCUMENT && known.iter().filter(|known| **known == DOCUMENT).count() == 1
}

/// No value, but where functions are found.
fn is_library(target: &IdedExpr) -> bool {
    matches!(&target.expr, Expr::Ident(name) if LIBRARIES.contains(&name.as_str()))
}

/// Whether there is such a function, for whatever values. The environment cannot be asked; a call without arguments
/// tells.
fn is_function(call: &CallExpr) -> bool {
    let name = &call.func_name;
    // Operators are never missing.
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let call = match call.target.as_deref() {
        None => format!("{name}()"),
        Some(IdedExpr { expr: Expr::Ident(library), .. }) if LIBRARIES.contains(&library.as_str()) => {
            format!("{library}.{name}()")
        }
        Some(_) => format!("''.{name}()"),
    };
    let execute = |program: Program| program.execute(&Context::with_env(environment())).err();
    let error = environment().compile(&call).ok().filter(|_| is_name).and_then(execute);
    !matches!(error, Some(ExecutionError::UndeclaredReference(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> FieldsOfDocument {
        Expression::compile(text, About::Document).unwrap_or_else(|errors| panic!("{errors:?}")).fields
    }

    fn named(names: &[&str]) -> FieldsOfDocument {
        FieldsOfDocument::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_fields_that_are_looked_at_are_known_beforehand() {
        assert_eq!(fields("1 + 1"), named(&[]));
        assert_eq!(fields("doc.a.b + doc.c"), named(&["a", "c"]));
        assert_eq!(
            fields("has(doc.a) ? doc.b : doc.items.exists(i, i.x == doc.c)"),
            named(&["a", "b", "c", "items"])
        );
        assert_eq!(fields("doc['a'] == doc.b"), FieldsOfDocument::All);
        assert_eq!(fields("size(doc) > 3"), FieldsOfDocument::All);
        assert_eq!(fields("doc.items.map(doc, doc.x)"), named(&["items"]), "the inner one is another");
        assert_eq!(fields("type(doc.a) == int && doc.b.lowerAscii() == 'x'"), named(&["a", "b"]));
    }

    #[test]
    fn mistakes_have_their_place() {
        let mistakes =
            |text: &str| Expression::compile(text, About::Document).expect_err("a mistake").join("\n");
        assert_eq!(mistakes("doc.a +\n dok.b"), "line 2, column 2: dok is not known, only doc is");
        assert!(mistakes("doc.a + ").starts_with("line 1, column "), "{}", mistakes("doc.a + "));
        let inner = mistakes("doc.l.all(i, i > 0) && i > 1");
        assert_eq!(inner, "line 1, column 24: i is not known, only doc is");
    }

    #[test]
    fn functions_that_do_not_exist_are_mistakes() {
        let mistakes = |text: &str| Expression::compile(text, About::Document).expect_err(text).join("\n");
        for (text, told) in [
            ("nothing(doc.a)", "line 1, column 8: there is no function nothing"),
            ("doc.a.lowerAsci()", "line 1, column 16: there is no function lowerAsci"),
            ("math.greates(1, 2)", "line 1, column 13: there is no function greates"),
            ("1 + size(doc.a, lengthOf(doc.b))", "line 1, column 25: there is no function lengthOf"),
            ("doc.a.map()", "line 1, column 10: there is no function map"),
        ] {
            assert_eq!(mistakes(text), told);
        }
        for text in [
            "size(doc.a) > 1 && doc.b.size() in [1, 2]",
            "doc.a.lowerAscii().split(' ').map(w, w.trim())[0]",
            "math.greatest(doc.a, -1) % 2 == 0 ? doc.?b.orValue('') : string(doc.c)",
            "optional.of(doc.a).hasValue() || !has(doc.b) || doc.l.exists_one(i, i >= 2.0)",
            "timestamp(doc.a).getFullYear() + int(doc.b) - lists.range(3)[0]",
            "doc.a.matches('x') && doc.b.startsWith('y') && type(doc.c) == int",
            "[1, 2].sort().join(',') == dyn(doc.a)",
        ] {
            assert!(Expression::compile(text, About::Document).is_ok(), "{text}: {}", mistakes(text));
        }
    }

    #[test]
    fn elements_are_known_where_rows_are_made_of_them() {
        let text = "element.price * double(index) + doc.rate";
        let expression = Expression::compile(text, About::Element).expect("an expression");
        assert!(expression.is_of_element());
        assert_eq!(expression.fields, named(&["rate"]));
        assert!(!Expression::compile("doc.rate", About::Element).expect("an expression").is_of_element());
        let mistakes = |about| Expression::compile("element.x + parent.y", about).expect_err("a mistake");
        assert_eq!(
            mistakes(About::Element),
            ["line 1, column 13: parent is not known, only doc, element and index are"]
        );
        assert_eq!(mistakes(About::Document).len(), 2);
    }

    #[test]
    fn what_could_overflow_a_stack_is_refused() {
        let mistakes =
            |text: &str| Expression::compile(text, About::Document).expect_err("a mistake").join("\n");
        assert!(mistakes(&"(".repeat(1_000)).contains("brackets"));
        assert!(mistakes(&"1+".repeat(1_000)).contains("operators"));
        assert!(mistakes(&format!("1{}", "+1".repeat(400))).contains("nested more than"));
        assert!(mistakes(&format!("doc{}", ".a".repeat(400))).contains("nested more than"));
        assert!(mistakes(&"a".repeat(20_000)).contains("longer than"));
        let is_fine = |text: &str| Expression::compile(text, About::Document).is_ok();
        assert!(is_fine(&format!("{}1{}", "(".repeat(20), ")".repeat(20))));
        assert!(is_fine(&format!("true{}", " && doc.a == 1".repeat(50))));
    }
}
