//! What must hold for any text that an operator writes into a flag; the seeded test and the fuzz targets of `fuzz/`
//! call the same functions. A broken rule is a panic.

use std::fmt::{Debug, Display};

use tepui_model::{
    Role, check_container_id, check_id, format_duration, parse_attributes, parse_duration,
    parse_quantities, parse_resources, parse_size,
};

/// Reads the text as everything there is to read. What was read and can be written reads back as the same.
pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let star = Role::star();
    again(&text, |text| parse_resources(text, &star));
    again(&text, parse_quantities);
    if let Ok(attributes) = parse_attributes(&text) {
        let written: Vec<String> = attributes.iter().map(ToString::to_string).collect();
        assert_eq!(parse_attributes(&written.join(";")), Ok(attributes));
    }
    again(&text, Role::parse);
    if let Ok(duration) = parse_duration(&text) {
        let written = format_duration(duration);
        assert_eq!(parse_duration(&written), Ok(duration), "{written}");
    }
    let _ = parse_size(&text);
    let _ = check_id("task id", &text);
    let _ = check_container_id(&text);
}

fn again<T: Display + Debug + PartialEq, E: Debug + PartialEq>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) {
    if let Ok(read) = parse(text) {
        let written = read.to_string();
        assert_eq!(
            parse(&written),
            Ok(read),
            "{text:?} was written as {written:?}"
        );
    }
}
