//! The difference of two lists of lines, as people read it.

/// Both lists as one, `-` before what only `expected` has, `+` before what only `actual` has.
pub(crate) fn diff(expected: &[String], actual: &[String]) -> String {
    // Longest common subsequence; the lists are a batch's effects, so the square of their length is small.
    let width = actual.len() + 1;
    let mut common = vec![0_u32; (expected.len() + 1) * width];
    for left in (0..expected.len()).rev() {
        for right in (0..actual.len()).rev() {
            common[left * width + right] = if expected[left] == actual[right] {
                common[(left + 1) * width + right + 1] + 1
            } else {
                common[(left + 1) * width + right].max(common[left * width + right + 1])
            };
        }
    }
    let (mut left, mut right) = (0, 0);
    let mut out = String::new();
    let mut line = |mark: char, text: &str| {
        out.push_str("\n    ");
        out.push(mark);
        out.push(' ');
        out.push_str(text);
    };
    while left < expected.len() || right < actual.len() {
        if left < expected.len() && right < actual.len() && expected[left] == actual[right] {
            line(' ', &expected[left]);
            left += 1;
            right += 1;
        } else if right == actual.len()
            || (left < expected.len()
                && common[(left + 1) * width + right] >= common[left * width + right + 1])
        {
            line('-', &expected[left]);
            left += 1;
        } else {
            line('+', &actual[right]);
            right += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_extra_and_changed_lines_are_marked() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            diff(&lines("a b c d"), &lines("a c x d e")),
            "\n      a\n    - b\n      c\n    + x\n      d\n    + e"
        );
        assert_eq!(diff(&[], &lines("a")), "\n    + a");
        assert_eq!(diff(&lines("a"), &[]), "\n    - a");
    }
}
