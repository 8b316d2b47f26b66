use proptest::prelude::*;

use super::{messages, networking, route, service};

proptest! {
    #[test]
    fn no_text_breaks_analysis(text in ".{0,200}") {
        let _ = messages(&text);
    }

    #[test]
    fn the_order_of_documents_decides_nothing(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
        let documents = [
            service("reviews"),
            networking("VirtualService", "a", &route("reviews, subset: v1")),
            networking("VirtualService", "b", &route("nobody")),
            networking("DestinationRule", "a", "{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}"),
            networking("Gateway", "a", "{selector: {app: gw}}"),
            networking("Sidecar", "a", "{workloadSelector: {labels: {app: a}}}"),
        ];
        let told = |order: &[usize]| {
            let text: String = order.iter().map(|index| documents[*index].as_str()).collect();
            messages(&text).iter().map(|message| (message.code, message.origin(), message.text.clone())).collect::<Vec<_>>()
        };
        let mut expected = told(&[0, 1, 2, 3, 4, 5]);
        let mut found = told(&order);
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
    }
}
