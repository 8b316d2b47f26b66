//! Circuits that the mesh shares.

use weft_tests::{
    fleet::{BYSTANDER, Fleet, Plan, TOO_MANY},
    lab::{PATIENCE, wait_for},
};

#[test]
fn what_one_node_sees_fail_all_avoid_and_the_fleet_loses_far_less_than_by_private_breakers() {
    let plan = Plan { callers: 6, endpoints: 5, rate: 20 };
    let mut fleet = Fleet::start(plan);
    assert_eq!(fleet.complaints(BYSTANDER), None);

    fleet.fall_ill();
    let what = "a node that never called the service keeps from its endpoint";
    wait_for(what, PATIENCE, || fleet.complaints(BYSTANDER).filter(|(standing, _)| standing != "preferred"));
    let seen = wait_for("most callers have seen it, so it is out of use for all", PATIENCE, || {
        let complaints = fleet.complaints(BYSTANDER);
        complaints.filter(|(standing, seen)| standing == "excluded" && seen.len() >= plan.callers / 2)
    });
    assert!(seen.1.iter().all(|state| ["failing", "tripped", "probing"].contains(&state.as_str())), "{seen:?}");
    assert!(fleet.heard_after().is_some_and(|after| after < PATIENCE), "the log tells it");
    let circuits = fleet.lab.host(BYSTANDER).weft(&["circuits"]).ok();
    assert!(circuits.contains("/shared-0:") && !circuits.contains("/shared-1:"), "{circuits}");
    assert!(fleet.lab.host(BYSTANDER).metric("weft_circuits_heard", &[]) >= 1.0);

    // Where each judges for itself, all have found out by themselves, and again after the first ejection.
    let twice = (2 * plan.callers * TOO_MANY) as f64;
    wait_for("private breakers have tripped twice", PATIENCE * 2, || (fleet.lost_privately() >= twice).then_some(()));
    fleet.recover();
    wait_for("it is tried, answers, and is back in use for all", PATIENCE * 2, || {
        fleet.callers().chain([BYSTANDER]).all(|node| fleet.complaints(node).is_none()).then_some(())
    });

    let failed = fleet.finish();
    println!("{failed:?}, heard after {:?}", fleet.heard_after());
    assert!(failed.shared > 0 && failed.shared * 2 <= failed.private, "{failed:?}");
}
