//! What a master remembers, and that two cannot remember in one place.

use tepui_master::StartError;
use tepui_master::store::StoreError;

use crate::support::{SUBSCRIBE, Subscription, config, operator, soon};

#[tokio::test]
async fn a_second_master_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = tepui_master::start(config(directory.path())).await.unwrap();
    let error = tepui_master::start(config(directory.path()))
        .await
        .err()
        .expect("the directory is taken");
    assert!(
        matches!(error, StartError::Store(StoreError::InUse { .. })),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("two masters cannot share a data directory"),
        "{error}"
    );
    soon("the stop", first.stop()).await.unwrap();
    let second = tepui_master::start(config(directory.path())).await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_framework_is_known_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = tepui_master::start(config(directory.path())).await.unwrap();
    let call = SUBSCRIBE.replace(
        r#""name": "test""#,
        r#""name": "test", "failover_timeout": 3600"#,
    );
    let id = Subscription::open(first.address(), &call)
        .await
        .framework_id;
    let master_id = operator(first.address(), r#"{"type": "GET_MASTER"}"#).await;
    soon("the stop", first.stop()).await.unwrap();

    let second = tepui_master::start(config(directory.path())).await.unwrap();
    let frameworks = operator(second.address(), r#"{"type": "GET_FRAMEWORKS"}"#)
        .await
        .get_frameworks
        .unwrap();
    assert_eq!(frameworks.frameworks.len(), 1);
    let framework = &frameworks.frameworks[0];
    assert_eq!(framework.framework_info.id.as_ref(), Some(&id));
    assert!(framework.recovered && !framework.connected);
    let id = |response: tepui_api::v1::master::Response| {
        response.get_master.unwrap().master_info.unwrap().id
    };
    let again = operator(second.address(), r#"{"type": "GET_MASTER"}"#).await;
    assert_ne!(id(again), id(master_id), "each start is another master");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn cancelling_the_token_of_the_configuration_stops_the_master() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let token = config.shutdown.clone();
    let running = tokio::spawn(tepui_master::run(config));
    token.cancel();
    soon("the stop", running).await.unwrap().unwrap();
}
