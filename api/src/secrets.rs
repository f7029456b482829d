//! What is shown of messages that carry secrets: everything but the secrets' values.
//!
//! A reference to a secret stays, for it says only where the secret lies.

use crate::v1;

/// What a secret may be part of.
pub trait Conceal {
    /// Removes the values of all secrets in it.
    fn conceal(&mut self);
}

/// A copy that may be shown.
pub fn concealed<M: Conceal + Clone>(message: &M) -> M {
    let mut copy = message.clone();
    copy.conceal();
    copy
}

impl<M: Conceal> Conceal for Option<M> {
    fn conceal(&mut self) {
        if let Some(message) = self {
            message.conceal();
        }
    }
}

impl<M: Conceal> Conceal for Vec<M> {
    fn conceal(&mut self) {
        for message in self {
            message.conceal();
        }
    }
}

impl Conceal for v1::Secret {
    fn conceal(&mut self) {
        self.value = None;
    }
}

impl Conceal for v1::CommandInfo {
    fn conceal(&mut self) {
        for variable in self
            .environment
            .iter_mut()
            .flat_map(|environment| &mut environment.variables)
        {
            variable.secret.conceal();
        }
    }
}

impl Conceal for v1::Image {
    fn conceal(&mut self) {
        if let Some(docker) = &mut self.docker {
            docker.config.conceal();
        }
    }
}

impl Conceal for v1::Volume {
    fn conceal(&mut self) {
        self.image.conceal();
        let Some(source) = &mut self.source else {
            return;
        };
        source.secret.conceal();
        if let Some(provisioning) = source
            .csi_volume
            .as_mut()
            .and_then(|volume| volume.static_provisioning.as_mut())
        {
            let stage = provisioning.node_stage_secrets.values_mut();
            stage
                .chain(provisioning.node_publish_secrets.values_mut())
                .for_each(Conceal::conceal);
        }
    }
}

impl Conceal for v1::ContainerInfo {
    fn conceal(&mut self) {
        self.volumes.conceal();
        if let Some(mesos) = &mut self.mesos {
            mesos.image.conceal();
        }
    }
}

impl Conceal for v1::HealthCheck {
    fn conceal(&mut self) {
        self.command.conceal();
    }
}

impl Conceal for v1::ExecutorInfo {
    fn conceal(&mut self) {
        self.command.conceal();
        self.container.conceal();
    }
}

impl Conceal for v1::Task {
    fn conceal(&mut self) {
        self.container.conceal();
        self.health_check.conceal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn parse<M: json::Json>(text: &str) -> M {
        json::from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_values_of_secrets_are_not_shown_wherever_they_stand() {
        let secret = r#"{ "type": "VALUE", "value": { "data": "dG9wc2VjcmV0" } }"#;
        let reference = r#"{ "type": "REFERENCE", "reference": { "name": "vault" } }"#;
        let command = format!(
            r#"{{ "value": "x", "environment": {{ "variables": [
                {{ "name": "PLAIN", "value": "seen" }},
                {{ "name": "HIDDEN", "type": "SECRET", "secret": {secret} }},
                {{ "name": "ELSEWHERE", "type": "SECRET", "secret": {reference} }} ] }} }}"#
        );
        let image =
            format!(r#"{{ "type": "DOCKER", "docker": {{ "name": "i", "config": {secret} }} }}"#);
        let container = format!(
            r#"{{ "type": "MESOS", "mesos": {{ "image": {image} }}, "volumes": [
                {{ "container_path": "a", "mode": "RO", "image": {image} }},
                {{ "container_path": "b", "mode": "RO", "source": {{ "type": "SECRET", "secret": {secret} }} }},
                {{ "container_path": "c", "mode": "RO", "source": {{ "type": "CSI_VOLUME", "csi_volume": {{ "plugin_name": "p",
                  "static_provisioning": {{ "volume_id": "v", "volume_capability": {{ "access_mode": {{ "mode": "SINGLE_NODE_WRITER" }} }},
                    "node_stage_secrets": {{ "s": {secret} }}, "node_publish_secrets": {{ "p": {secret} }} }} }} }} }} ] }}"#
        );
        let executor: v1::ExecutorInfo = parse(&format!(
            r#"{{ "executor_id": {{ "value": "e" }}, "command": {command}, "container": {container} }}"#
        ));
        let task: v1::Task = parse(&format!(
            r#"{{ "name": "t", "task_id": {{ "value": "t" }}, "framework_id": {{ "value": "f" }}, "agent_id": {{ "value": "a" }},
                "state": "TASK_RUNNING", "container": {container},
                "health_check": {{ "type": "COMMAND", "command": {command} }} }}"#
        ));
        for (given, shown) in [
            (
                json::to_string(&executor),
                json::to_string(&concealed(&executor)),
            ),
            (json::to_string(&task), json::to_string(&concealed(&task))),
        ] {
            assert!(given.matches("dG9wc2VjcmV0").count() >= 6, "{given}");
            assert!(!shown.contains("dG9wc2VjcmV0"), "{shown}");
            for kept in ["seen", "HIDDEN", "vault", "node_stage_secrets"] {
                assert!(shown.contains(kept), "{kept}: {shown}");
            }
        }
    }
}
