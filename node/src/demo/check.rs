//! `weft demo --check`: did the mesh really do what its documents say?

use std::fmt::{self, Display};

use futures_util::{StreamExt, stream};

use super::{
    load::Visitor,
    tally::{Counts, percent},
};

/// Requests to reviews as nobody in particular. The share of 20 % then has a standard deviation of 1.3 points, so that
/// chance alone leaves the allowed 7 points about once in 10^7 runs.
const ANONYMOUS: usize = 1000;
const JASON: usize = 100;
/// Fewer requests than these prove nothing.
const LEAST_ANONYMOUS: u64 = 300;
const LEAST_JASON: u64 = 50;
/// What the VirtualService says of v3, in percent, and how far from it the observed share may be.
const CANARY: f64 = 20.0;
const TOLERANCE: f64 = 7.0;
const CONCURRENCY: usize = 4;

/// What was observed.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) members: usize,
    pub(super) expected_members: usize,
    /// Pages of the load.
    pub(super) pages: Counts,
    pub(super) jasons_pages: Counts,
    /// Requests to reviews.
    pub(super) reviews: Counts,
    pub(super) jasons_reviews: Counts,
}

/// One check and what it saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) passed: bool,
    what: &'static str,
    observed: String,
}

impl Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", if self.passed { '✓' } else { '✗' }, self.what, self.observed)
    }
}

/// Asks reviews many times as anonymous and then as jason, through the outbound proxy.
pub(super) async fn ask_reviews(visitor: &Visitor) -> (Counts, Counts) {
    (ask(visitor, None, ANONYMOUS).await, ask(visitor, Some("jason"), JASON).await)
}

async fn ask(visitor: &Visitor, user: Option<&str>, times: usize) -> Counts {
    let answers = stream::iter(0..times).map(|_| visitor.reviews(user)).buffer_unordered(CONCURRENCY);
    answers
        .fold(Counts::default(), async |mut counts, answer| {
            counts.add(answer);
            counts
        })
        .await
}

/// What the evidence says of each promise of the demo.
pub(super) fn judge(evidence: &Evidence) -> Vec<Check> {
    let Evidence { members, expected_members, pages, jasons_pages, reviews, jasons_reviews } = evidence;
    let share = percent(reviews.v3, reviews.served());
    let all = [pages, jasons_pages, reviews, jasons_reviews];
    let failed: u64 = all.iter().map(|counts| counts.failed).sum();
    let last_error = all.iter().find_map(|counts| counts.last_error.as_deref());
    let check = |what, passed, observed| Check { passed, what, observed };
    vec![
        check("every host is a member", members == expected_members, format!("{members} of {expected_members} alive")),
        check(
            "the product page is served with stars",
            pages.v3 > 0 && jasons_pages.v2 > 0,
            format!(
                "{} pages; {} with red stars, {} with black ones",
                pages.served() + jasons_pages.served(),
                pages.v3,
                jasons_pages.v2
            ),
        ),
        check(
            "one request in five goes to reviews v3, the others to v1, none to v2",
            reviews.total() >= LEAST_ANONYMOUS && (share - CANARY).abs() <= TOLERANCE && reviews.v2 == 0,
            format!(
                "v1 {} ({:.1} %), v2 {}, v3 {} ({share:.1} %) of {} requests",
                reviews.v1,
                percent(reviews.v1, reviews.served()),
                reviews.v2,
                reviews.v3,
                reviews.total()
            ),
        ),
        check(
            "jason always gets reviews v2",
            jasons_reviews.total() >= LEAST_JASON
                && jasons_reviews.v2 == jasons_reviews.served()
                && jasons_pages.v2 == jasons_pages.served(),
            format!(
                "{} of {} requests, {} of {} pages",
                jasons_reviews.v2,
                jasons_reviews.total(),
                jasons_pages.v2,
                jasons_pages.total()
            ),
        ),
        check(
            "nothing failed",
            failed == 0,
            match last_error {
                Some(error) => format!("{failed} requests did, such as: {error}"),
                None => format!("0 of {} requests did", all.iter().map(|counts| counts.total()).sum::<u64>()),
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        Evidence {
            members: 5,
            expected_members: 5,
            pages: Counts { v1: 130, v3: 30, ..Counts::default() },
            jasons_pages: Counts { v2: 40, ..Counts::default() },
            reviews: Counts { v1: 800, v3: 200, ..Counts::default() },
            jasons_reviews: Counts { v2: 100, ..Counts::default() },
        }
    }

    /// Positions of the checks that fail.
    fn failing(evidence: &Evidence) -> Vec<usize> {
        judge(evidence).iter().enumerate().filter(|(_, check)| !check.passed).map(|(index, _)| index).collect()
    }

    #[test]
    fn the_mesh_as_documented_passes_and_says_what_was_seen() {
        assert!(failing(&good()).is_empty());
        let lines: Vec<String> = judge(&good()).iter().map(Check::to_string).collect();
        assert_eq!(lines[0], "✓ every host is a member: 5 of 5 alive");
        assert!(lines[2].ends_with("v1 800 (80.0 %), v2 0, v3 200 (20.0 %) of 1000 requests"), "{}", lines[2]);
        assert_eq!(lines[4], "✓ nothing failed: 0 of 1300 requests did");
    }

    #[test]
    fn a_missing_member_fails() {
        assert_eq!(failing(&Evidence { members: 4, ..good() }), [0]);
    }

    #[test]
    fn pages_without_stars_fail() {
        assert_eq!(failing(&Evidence { pages: Counts { v1: 160, ..Counts::default() }, ..good() }), [1]);
        assert_eq!(failing(&Evidence { jasons_pages: Counts::default(), ..good() }), [1]);
    }

    #[test]
    fn the_canary_share_may_be_seven_points_off() {
        for (v3, passes) in [(130, true), (129, false), (270, true), (271, false), (0, false)] {
            let reviews = Counts { v1: 1000 - v3, v3, ..Counts::default() };
            assert_eq!(failing(&Evidence { reviews, ..good() }).is_empty(), passes, "{v3} of 1000");
        }
    }

    #[test]
    fn any_anonymous_request_to_v2_fails() {
        assert_eq!(failing(&Evidence { reviews: Counts { v2: 1, ..good().reviews }, ..good() }), [2]);
    }

    #[test]
    fn too_few_requests_prove_nothing() {
        let reviews = Counts { v1: 239, v3: 60, ..Counts::default() };
        assert_eq!(failing(&Evidence { reviews, ..good() }), [2]);
        assert_eq!(failing(&Evidence { jasons_reviews: Counts { v2: 49, ..Counts::default() }, ..good() }), [3]);
    }

    #[test]
    fn jason_anywhere_but_v2_fails() {
        assert_eq!(failing(&Evidence { jasons_reviews: Counts { v2: 99, v1: 1, ..Counts::default() }, ..good() }), [3]);
        assert_eq!(failing(&Evidence { jasons_pages: Counts { v2: 39, v3: 1, ..Counts::default() }, ..good() }), [3]);
    }

    #[test]
    fn one_failed_request_fails_and_is_quoted() {
        let last_error = Some("reset".to_owned());
        let evidence = Evidence { pages: Counts { failed: 1, last_error, ..good().pages }, ..good() };
        assert_eq!(failing(&evidence), [4]);
        assert_eq!(judge(&evidence)[4].to_string(), "✗ nothing failed: 1 requests did, such as: reset");
    }
}
