//! Operators: agents drained, deactivated, given up for good; weights and quotas changed.

use tepui_api::v1::master::{Call, call};
use tepui_api::v1::{self, value};
use tepui_master_core::Input;

use crate::world::World;

impl World {
    /// Hands the master a call of an operator. Whether it is refused is not looked at.
    pub fn operate(&mut self, call: Call) {
        if self.master.core.is_none() {
            return;
        }
        let request = self.new_request(None);
        self.master_takes(Input::OperatorCall {
            request,
            principal: None,
            call: Box::new(call),
        });
    }

    pub(crate) fn operate_at_random(&mut self) -> &'static str {
        let Some(view) = self.view() else {
            return "nothing";
        };
        let away = view.unreachable_agents.keys().map(ToString::to_string);
        let mut agents: Vec<String> = view
            .agents
            .values()
            .map(|agent| agent.id.to_string())
            .collect();
        agents.extend(away);
        let deactivated: Vec<String> = view
            .deactivated_agents
            .keys()
            .map(ToString::to_string)
            .collect();
        let roles: Vec<String> = self
            .tenants
            .iter()
            .map(|tenant| tenant.info.role().to_owned())
            .collect();
        let (Some(agent), Some(role)) = (
            self.chance.pick(&agents).cloned(),
            self.chance.pick(&roles).cloned(),
        ) else {
            return "nothing";
        };
        match self.chance.below(12) {
            0 => {
                let for_good = self.chance.odds(200);
                self.operate(drain(&agent, for_good));
                "agent drained"
            }
            1 => {
                self.operate(deactivate(&agent));
                "agent deactivated"
            }
            2..6 => {
                if let Some(agent) = self.chance.pick(&deactivated).cloned() {
                    self.operate(reactivate(&agent));
                }
                "agent reactivated"
            }
            6 if self.chance.odds(300) => {
                self.operate(mark_gone(&agent));
                "agent marked gone"
            }
            7..9 => {
                let weight = [0.5, 1.0, 2.0, 5.0][self.chance.index(4)];
                self.operate(weights(&role, weight));
                "weight changed"
            }
            _ => {
                let amount = |chance: &mut crate::Chance| {
                    chance.odds(500).then(|| chance.between(1, 8) as f64)
                };
                let guarantee = amount(&mut self.chance);
                let limit = amount(&mut self.chance);
                self.operate(quota(&role, guarantee, limit));
                "quota changed"
            }
        }
    }

    /// Everything that operators took out is back in.
    pub fn reactivate_all(&mut self) {
        let Some(view) = self.view() else { return };
        for agent in view.deactivated_agents.keys() {
            self.operate(reactivate(agent.as_str()));
        }
    }
}

fn plain(kind: call::Type) -> Call {
    Call {
        r#type: Some(kind.into()),
        ..Call::default()
    }
}

fn drain(agent: &str, mark_gone: bool) -> Call {
    Call {
        drain_agent: Some(call::DrainAgent {
            agent_id: agent.into(),
            max_grace_period: None,
            mark_gone: Some(mark_gone),
        }),
        ..plain(call::Type::DrainAgent)
    }
}

fn deactivate(agent: &str) -> Call {
    Call {
        deactivate_agent: Some(call::DeactivateAgent {
            agent_id: agent.into(),
        }),
        ..plain(call::Type::DeactivateAgent)
    }
}

fn reactivate(agent: &str) -> Call {
    Call {
        reactivate_agent: Some(call::ReactivateAgent {
            agent_id: agent.into(),
        }),
        ..plain(call::Type::ReactivateAgent)
    }
}

fn mark_gone(agent: &str) -> Call {
    Call {
        mark_agent_gone: Some(call::MarkAgentGone {
            agent_id: agent.into(),
        }),
        ..plain(call::Type::MarkAgentGone)
    }
}

fn weights(role: &str, weight: f64) -> Call {
    Call {
        update_weights: Some(call::UpdateWeights {
            weight_infos: vec![v1::WeightInfo {
                weight,
                role: Some(role.to_owned()),
            }],
        }),
        ..plain(call::Type::UpdateWeights)
    }
}

fn quota(role: &str, guarantee: Option<f64>, limit: Option<f64>) -> Call {
    let cpus = |amount: Option<f64>| {
        amount
            .map(|value| ("cpus".to_owned(), value::Scalar { value }))
            .into_iter()
            .collect()
    };
    Call {
        update_quota: Some(call::UpdateQuota {
            force: Some(true),
            quota_configs: vec![v1::quota::QuotaConfig {
                role: role.to_owned(),
                guarantees: cpus(guarantee),
                limits: cpus(limit),
            }],
        }),
        ..plain(call::Type::UpdateQuota)
    }
}
