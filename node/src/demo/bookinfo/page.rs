//! The productpage as HTML. Whatever comes from another service or from the user is escaped.

use std::fmt::{self, Display};

use serde_json::Value;

pub(super) const STYLESHEET: &str = include_str!("bookinfo.css");

pub(super) const TITLE: &str = "The Comedy of Errors";
/// HTML of our own, the one thing that is not escaped.
pub(super) const DESCRIPTION: &str = "One of <b>William Shakespeare's</b> earliest plays and his shortest: two pairs \
     of twins, separated in a shipwreck and named alike, meet the same town on the same day. \
     <a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Read its summary on Wikipedia</a>.";

/// The shape of one star, 20 units wide.
const STAR: &str = r#"<path d="M10 1.5l2.6 5.4 5.9.8-4.3 4.1 1.1 5.9-5.3-2.9-5.3 2.9 1.1-5.9L1.5 7.7l5.9-.8z"/>"#;

/// What another service answered: its JSON, or the error object that the page shows instead.
pub(super) type Answer = Result<Value, Value>;

/// Text with the characters that mean something in HTML written as entities; safe in elements and quoted attributes.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }
}

/// A JSON value as a reader expects it: strings without quotes, nothing for what is missing.
fn text(value: &Value) -> Escaped<String> {
    Escaped(match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// The start page: what the application is and where to go.
pub(super) fn index() -> String {
    let body = format!(
        r#"<section class="card"><h2>Hello! This is bookinfo</h2>
<p>A page made by four services: <b>productpage</b> asks <b>details</b> and <b>reviews</b>, and reviews asks
<b>ratings</b>.</p>
<p><a class="button" href="productpage">{TITLE}</a></p></section>"#
    );
    layout(None, &body)
}

/// The page of the one product.
pub(super) fn product(user: Option<&str>, details: &Answer, reviews: &Answer) -> String {
    let body = format!(
        r#"<section class="card"><h2>{TITLE}</h2><p>{DESCRIPTION}</p></section>
<section class="card">{}</section>
<section class="card">{}</section>"#,
        details_section(details),
        reviews_section(reviews),
    );
    layout(user, &body)
}

fn layout(user: Option<&str>, body: &str) -> String {
    let session = match user {
        Some(user) => {
            let user = Escaped(user);
            format!(r#"<span>Signed in as <b>{user}</b></span> <a class="button" href="logout">Sign out</a>"#)
        }
        None => r#"<form method="post" action="login">
<input name="username" placeholder="User name" aria-label="User name" required maxlength="128">
<input name="passwd" type="password" placeholder="Any password" aria-label="Password">
<button class="button">Sign in</button>
</form>"#
            .to_owned(),
    };
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simple Bookstore App</title>
<link rel="stylesheet" href="static/bookinfo.css">
</head>
<body>
<header><h1>Bookinfo</h1>{session}</header>
<main>
{body}
</main>
</body>
</html>
"#
    )
}

fn details_section(details: &Answer) -> String {
    let details = match details {
        Ok(details) => details,
        Err(error) => return error_section("Error fetching product details", error),
    };
    let row = |label: &str, key: &str| format!("<dt>{label}</dt><dd>{}</dd>", text(&details[key]));
    let rows = [
        row("Author", "author"),
        row("Year", "year"),
        row("Type", "type"),
        row("Pages", "pages"),
        row("Publisher", "publisher"),
        row("Language", "language"),
        row("ISBN-10", "ISBN-10"),
        row("ISBN-13", "ISBN-13"),
    ];
    format!("<h3>Book Details</h3><dl>{}</dl>", rows.concat())
}

fn reviews_section(reviews: &Answer) -> String {
    let reviews = match reviews {
        Ok(reviews) => reviews,
        Err(error) => return error_section("Error fetching product reviews", error),
    };
    let each = reviews["reviews"].as_array().map(Vec::as_slice).unwrap_or_default();
    let each: String = each
        .iter()
        .map(|review| {
            format!(
                "<blockquote><p>{}</p>{}<footer>{}</footer></blockquote>",
                text(&review["text"]),
                rating(&review["rating"]),
                text(&review["reviewer"]),
            )
        })
        .collect();
    let cluster = match reviews["clustername"].as_str() {
        None | Some("null") => String::new(),
        Some(cluster) => format!(" on cluster <u>{}</u>", Escaped(cluster)),
    };
    format!(
        "<h3>Book Reviews</h3>{each}<p class=\"served\">Reviews served by: <u>{}</u>{cluster}</p>",
        text(&reviews["podname"])
    )
}

/// Stars, the error that came in their place, or nothing where reviews shows no ratings.
fn rating(rating: &Value) -> String {
    if let Some(stars) = rating["stars"].as_u64() {
        let star = |number: u64| {
            let (id, class) =
                if number <= stars { ("glyphicon-star", "full") } else { ("glyphicon-star-empty", "empty") };
            format!(
                r#"<svg id="glyphicon {id}" class="{class}" viewBox="0 0 20 20" width="20" height="20">{STAR}</svg>"#
            )
        };
        let color = text(&rating["color"]);
        format!(r#"<div class="flex gap-x-1 text-{color}-500">{}</div>"#, (1..=5).map(star).collect::<String>())
    } else if rating["error"].is_string() {
        format!("<p class=\"error\">{}</p>", text(&rating["error"]))
    } else {
        String::new()
    }
}

fn error_section(what: &str, error: &Value) -> String {
    format!("<h3 class=\"error\">{what}</h3><p>{}</p>", text(&error["error"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reviews(rating: Option<Value>) -> Answer {
        let mut review = json!({"reviewer": "Reviewer1", "text": "Good."});
        if let Some(rating) = rating {
            review["rating"] = rating;
        }
        Ok(json!({"podname": "reviews-v3-pod", "clustername": "null", "reviews": [review]}))
    }

    fn page(reviews: &Answer) -> String {
        product(None, &Ok(json!({"author": "William Shakespeare"})), reviews)
    }

    #[test]
    fn stars_are_drawn_in_their_color() {
        let html = page(&reviews(Some(json!({"stars": 4, "color": "red"}))));
        assert!(html.contains("<div class=\"flex gap-x-1 text-red-500\"><svg id=\"glyphicon glyphicon-star\""));
        assert_eq!(html.matches("<svg id=\"glyphicon glyphicon-star\"").count(), 4);
        assert_eq!(html.matches("<svg id=\"glyphicon glyphicon-star-empty\"").count(), 1);
    }

    #[test]
    fn reviews_without_ratings_have_no_stars() {
        let html = page(&reviews(None));
        assert!(html.contains("Good.") && !html.contains("<svg"));
    }

    #[test]
    fn missing_ratings_say_why() {
        let html = page(&reviews(Some(json!({"error": "Ratings service is currently unavailable"}))));
        assert!(html.contains("Ratings service is currently unavailable") && !html.contains("<svg"));
    }

    #[test]
    fn the_page_says_which_instance_served_the_reviews() {
        assert!(page(&reviews(None)).contains("Reviews served by: <u>reviews-v3-pod</u></p>"));
        let mut reviews = reviews(None).unwrap();
        reviews["clustername"] = json!("east");
        assert!(page(&Ok(reviews)).contains("<u>reviews-v3-pod</u> on cluster <u>east</u></p>"));
    }

    #[test]
    fn errors_take_the_place_of_what_failed() {
        let html = product(None, &Err(json!({"error": "no details"})), &Err(json!({"error": "no reviews"})));
        for expected in ["Error fetching product details", "no details", "Error fetching product reviews", "no reviews"]
        {
            assert!(html.contains(expected), "{expected}");
        }
    }

    #[test]
    fn nothing_from_outside_is_read_as_html() {
        let evil = "<script>\"'&";
        let rating = json!({"stars": 1, "color": evil});
        let answer = Ok(json!({
            "podname": evil, "clustername": evil, "reviews": [{"reviewer": evil, "text": evil, "rating": rating}],
        }));
        let details = Ok(json!({"author": evil, "year": {"<script>": evil}}));
        let error = Err(json!({"error": evil}));
        for html in [product(Some(evil), &details, &answer), product(None, &error, &error)] {
            assert!(!html.contains("<script"), "{html}");
            assert!(html.contains("&lt;script&gt;&quot;&#39;&amp;"));
        }
    }

    #[test]
    fn the_page_offers_to_sign_in_or_out() {
        let none = Err(json!({"error": ""}));
        assert!(product(None, &none, &none).contains("action=\"login\""));
        let html = product(Some("jason"), &none, &none);
        assert!(html.contains("Signed in as <b>jason</b>") && html.contains("href=\"logout\""));
    }
}
