//! What is wrong with a configuration or a policy, told so that it can be put right: what, where, and what to do. Readers
//! collect all problems before they give up.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan,
    SpanContents,
};

/// One thing that is wrong. Texts are lower case without a full stop; what the user wrote stands in backticks.
#[derive(Clone, Debug)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Option<Listing>,
}

/// A place in a text, with what to write under the caret.
#[derive(Clone, Debug)]
struct Listing {
    name: String,
    text: Arc<str>,
    span: Range<usize>,
    label: String,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Problem { message: message.into(), help: None, place: None }
    }

    /// Points at bytes `span` of `text`, a file (or the like) called `name`.
    pub fn at(mut self, name: &str, text: &Arc<str>, span: Range<usize>, label: impl Into<String>) -> Self {
        self.place = Some(Listing { name: name.to_owned(), text: Arc::clone(text), span, label: label.into() });
        self
    }

    /// What the user can do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The place's first byte, for sorting.
    pub(crate) fn offset(&self) -> usize {
        self.place.as_ref().map_or(0, |p| p.span.start)
    }

    /// The report for a terminal (`color`) or a log.
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler =
            GraphicalReportHandler::new_themed(theme).with_context_lines(0).with_links(false).with_width(120).with_urls(false);
        let mut out = String::new();
        match handler.render_report(&mut out, self) {
            Ok(()) => out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n",
            Err(fmt::Error) => format!("{self}\n"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|p| p as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new(Some(place.label.clone()), place.span.start, place.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

/// Whole lines, and no others: miette's own sources give either a piece of a line or its neighbours too.
impl SourceCode for Listing {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        _lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let bytes = self.text.as_bytes();
        let (from, to) = (span.offset(), span.offset() + span.len());
        let (Some(before), Some(after)) = (bytes.get(..from), bytes.get(to..)) else { return Err(MietteError::OutOfBounds) };
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let end = to + after.iter().position(|b| *b == b'\n').unwrap_or(after.len());
        let line = before.iter().filter(|b| **b == b'\n').count();
        let lines = bytes[start..end].iter().filter(|b| **b == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&bytes[start..from]).chars().count();
        let whole = SourceSpan::from((start, end - start));
        let name = self.name.clone();
        Ok(Box::new(MietteSpanContents::new_named(name, &bytes[start..end], whole, line, column, lines)))
    }
}

/// All problems of one run; not empty when it is an error.
#[derive(Clone, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// All reports, one after the other.
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|p| p.render(color)).collect::<Vec<_>>().join("\n")
    }

    /// `Ok(value)` where nothing was wrong.
    ///
    /// # Errors
    /// Itself, where there is a problem.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The candidate that `word` was probably meant to be.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}
