//! The scheduler's calls: who may make them, in what form, and where they lead.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_access::Denied;
use tepui_api::v1;
use tepui_api::v1::allocator::inverse_offer_status::Status;
use tepui_api::v1::scheduler::{Call, call};
use tepui_model::{FrameworkId, Role};

use crate::core::Core;
use crate::effect::Answer;
use crate::input::{RequestKey, StreamKey};
use crate::keys::FrameworkKey;
use crate::throttle::Waiting;
use crate::wire;

/// Operations of one ACCEPT.
const MOST_OPERATIONS: usize = 10_000;

/// Why a call is not carried out: an HTTP status and the sentence that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallRefused {
    #[error("Expecting '{field}' to be present")]
    Missing { field: &'static str },
    #[error("Expecting '{field}' to be a UUID of 16 bytes, but it has {bytes}")]
    Uuid { field: &'static str, bytes: usize },
    #[error("Unsupported call type")]
    Unknown,
    #[error("Framework cannot be found")]
    NoFramework,
    #[error(
        "Authenticated principal '{authenticated}' does not match principal '{set}' set in `FrameworkInfo`"
    )]
    Principal { authenticated: String, set: String },
    #[error("Framework is not subscribed")]
    NotSubscribed,
    #[error("All non-subscribe calls should include the 'Mesos-Stream-Id' header")]
    NoStreamId,
    #[error(
        "The stream ID '{given}' included in this request didn't match the stream ID currently associated with framework ID {framework}"
    )]
    StreamId { given: String, framework: String },
    #[error("Subscribe calls should not include the 'Mesos-Stream-Id' header")]
    UnexpectedStreamId,
    #[error("'framework_id' differs from 'subscribe.framework_info.id'")]
    IdDiffers,
    #[error("'framework_id' differs from 'update_framework.framework_info.id'")]
    UpdatedIdDiffers,
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("'FrameworkInfo' is not valid: {0}")]
    FrameworkInfo(String),
    #[error("Message {call} dropped: capacity({capacity}) exceeded")]
    Capacity { call: &'static str, capacity: u64 },
    #[error(
        "This ACCEPT has {operations} operations; one may have {MOST_OPERATIONS} at most, so send the rest in further calls"
    )]
    Operations { operations: usize },
    #[error("Updating the framework's {field} is not allowed")]
    Fixed { field: &'static str },
}

impl CallRefused {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::NotSubscribed | Self::Denied(_) => 403,
            Self::Capacity { .. } => 429,
            Self::Unknown => 501,
            _ => 400,
        }
    }
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, CallRefused> {
    value.ok_or(CallRefused::Missing { field })
}

fn check_uuid(field: &'static str, uuid: &[u8]) -> Result<(), CallRefused> {
    if uuid.len() == 16 {
        Ok(())
    } else {
        Err(CallRefused::Uuid {
            field,
            bytes: uuid.len(),
        })
    }
}

impl Core {
    pub(crate) fn on_scheduler_call(
        &mut self,
        request: RequestKey,
        principal: Option<String>,
        stream_id: Option<String>,
        call: Call,
        new_stream: Option<(StreamKey, String)>,
    ) {
        if let Err(refused) =
            self.try_scheduler_call(request, principal, stream_id, call, new_stream)
        {
            self.refuse(request, refused.status(), refused.to_string());
        }
    }

    fn try_scheduler_call(
        &mut self,
        request: RequestKey,
        principal: Option<String>,
        stream_id: Option<String>,
        mut call: Call,
        new_stream: Option<(StreamKey, String)>,
    ) -> Result<(), CallRefused> {
        let call_type = call
            .r#type
            .and_then(|number| call::Type::try_from(number).ok());
        match present("type", call_type)? {
            call::Type::Unknown => Err(CallRefused::Unknown),
            call::Type::Subscribe => {
                if stream_id.is_some() {
                    return Err(CallRefused::UnexpectedStreamId);
                }
                let subscribe = present("subscribe", call.subscribe.take())?;
                self.subscribe(
                    request,
                    principal,
                    call.framework_id.take(),
                    subscribe,
                    new_stream,
                )
            }
            call_type => {
                let framework_id = present("framework_id", call.framework_id.take())?;
                check_form(call_type, &call)?;
                let framework =
                    self.check_caller(&framework_id, principal.clone(), stream_id.clone())?;
                let waiting = Waiting {
                    request,
                    principal,
                    stream_id,
                    framework: framework_id,
                    call_type,
                    call,
                };
                self.carry_out_in_turn(framework, waiting)
            }
        }
    }

    /// In the order in which Mesos checks, so that a superseded scheduler hears the same.
    pub(crate) fn check_caller(
        &self,
        framework_id: &v1::FrameworkId,
        principal: Option<String>,
        stream_id: Option<String>,
    ) -> Result<FrameworkKey, CallRefused> {
        let framework = *self
            .framework_by_id
            .get(framework_id.value.as_str())
            .ok_or(CallRefused::NoFramework)?;
        let record = &self.frameworks[framework];
        if let Some(authenticated) = principal
            && record.info.principal.as_ref() != Some(&authenticated)
        {
            return Err(CallRefused::Principal {
                authenticated,
                set: record.info.principal().to_owned(),
            });
        }
        let stream = self.framework_states[&framework]
            .stream
            .as_ref()
            .ok_or(CallRefused::NotSubscribed)?;
        let given = stream_id.ok_or(CallRefused::NoStreamId)?;
        if given != stream.id {
            return Err(CallRefused::StreamId {
                given,
                framework: framework_id.value.clone(),
            });
        }
        Ok(framework)
    }

    pub(crate) fn carry_out(
        &mut self,
        request: RequestKey,
        framework: FrameworkKey,
        call_type: call::Type,
        call: Call,
    ) -> Result<(), CallRefused> {
        let metrics = &mut self.frameworks[framework].metrics;
        metrics.calls.count(call_type.as_str_name());
        match call_type {
            call::Type::Teardown => {
                self.metrics.count("master/messages_unregister_framework");
                self.remove_framework(framework, Some((request, Answer::Accepted)));
                return Ok(());
            }
            call::Type::UpdateFramework => {
                let update = present("update_framework", call.update_framework)?;
                return self.update_framework(request, framework, update);
            }
            _ => {}
        }
        // The answer comes before what the call brings about, so that a client that waits for it can take what
        // follows for its consequence.
        self.answer(request, Answer::Accepted);
        match call_type {
            call::Type::Accept => self.accept(framework, call.accept.unwrap_or_default()),
            call::Type::Decline => self.decline(framework, &call.decline.unwrap_or_default()),
            call::Type::Revive => {
                self.metrics.count("master/messages_revive_offers");
                self.revive(framework, &call.revive.unwrap_or_default().roles);
            }
            call::Type::Suppress => {
                self.metrics.count("master/messages_suppress_offers");
                self.suppress(framework, &call.suppress.unwrap_or_default().roles);
            }
            call::Type::Kill => self.kill(framework, call.kill.unwrap_or_default()),
            call::Type::Shutdown => {
                self.shut_executor_down(framework, call.shutdown.unwrap_or_default())
            }
            call::Type::Acknowledge => {
                self.acknowledge(framework, call.acknowledge.unwrap_or_default())
            }
            call::Type::Reconcile => {
                self.reconcile(framework, &call.reconcile.unwrap_or_default().tasks)
            }
            call::Type::ReconcileOperations => {
                let operations = call.reconcile_operations.unwrap_or_default().operations;
                self.reconcile_operations(framework, operations);
            }
            call::Type::Message => {
                self.message_executor(framework, call.message.unwrap_or_default())
            }
            call::Type::Request => {
                self.metrics.count("master/messages_resource_request");
                self.request(framework, &call.request.unwrap_or_default().requests);
            }
            call::Type::AcceptInverseOffers => {
                let accept = call.accept_inverse_offers.unwrap_or_default();
                let (ids, filters) = (accept.inverse_offer_ids, accept.filters.as_ref());
                self.answer_inverse_offers(framework, &ids, Status::Accept, filters);
            }
            call::Type::DeclineInverseOffers => {
                let decline = call.decline_inverse_offers.unwrap_or_default();
                let (ids, filters) = (decline.inverse_offer_ids, decline.filters.as_ref());
                self.answer_inverse_offers(framework, &ids, Status::Decline, filters);
            }
            call::Type::AcknowledgeOperationStatus => {
                let acknowledge = call.acknowledge_operation_status.unwrap_or_default();
                self.acknowledge_operation(framework, &acknowledge);
            }
            call::Type::Unknown
            | call::Type::Subscribe
            | call::Type::Teardown
            | call::Type::UpdateFramework => {
                unreachable!("dealt with before")
            }
        }
        Ok(())
    }

    pub(crate) fn revive(&mut self, framework: FrameworkKey, roles: &[String]) {
        let Some(roles) = self.own_roles(framework, roles) else {
            return;
        };
        let record = &mut self.frameworks[framework];
        if record.suppressed.iter().any(|role| roles.contains(role)) {
            let left = record
                .suppressed
                .iter()
                .filter(|role| !roles.contains(role))
                .cloned()
                .collect();
            record.suppressed = Arc::new(left);
        }
        self.allocator.revive(framework.into(), &roles);
        self.revive_inverse_offers(framework);
    }

    pub(crate) fn suppress(&mut self, framework: FrameworkKey, roles: &[String]) {
        let Some(roles) = self.own_roles(framework, roles) else {
            return;
        };
        let record = &mut self.frameworks[framework];
        let mut suppressed: BTreeSet<Role> = record.suppressed.iter().cloned().collect();
        suppressed.extend(roles.iter().cloned());
        record.suppressed = Arc::new(suppressed.into_iter().collect());
        self.allocator.suppress(framework.into(), &roles);
    }

    /// Agents that the framework would rather have than others, by name or for what they hold. What names no agent of this cluster, or an amount that
    /// is none, is passed over: a wish is nothing to be refused for.
    fn request(&mut self, framework: FrameworkKey, requests: &[v1::Request]) {
        let wishes = requests.iter().filter_map(|request| {
            let agent = self
                .agent_by_id
                .get(request.agent_id.as_ref()?.value.as_str())?;
            let resources = wire::resources(&request.resources).ok()?;
            Some(((*agent).into(), resources.quantities()))
        });
        let wishes = wishes.collect();
        self.allocator.request(framework.into(), wishes);
        self.note_asked_interest(framework, requests);
    }

    /// All of the framework's roles if none is named; nothing at all if one is not the framework's.
    fn own_roles(&self, framework: FrameworkKey, roles: &[String]) -> Option<Vec<Role>> {
        let own = &self.frameworks[framework].roles;
        if roles.is_empty() {
            return Some(own.to_vec());
        }
        roles
            .iter()
            .map(|role| own.iter().find(|known| known.as_str() == role).cloned())
            .collect()
    }

    pub(crate) fn framework_id(&self, framework: FrameworkKey) -> &FrameworkId {
        &self.frameworks[framework].id
    }
}

fn check_form(call_type: call::Type, call: &Call) -> Result<(), CallRefused> {
    match call_type {
        call::Type::Accept => {
            let operations = present("accept", call.accept.as_ref())?.operations.len();
            if operations > MOST_OPERATIONS {
                return Err(CallRefused::Operations { operations });
            }
            Ok(())
        }
        call::Type::Decline => present("decline", call.decline.as_ref()).map(drop),
        call::Type::AcceptInverseOffers => {
            present("accept_inverse_offers", call.accept_inverse_offers.as_ref()).map(drop)
        }
        call::Type::DeclineInverseOffers => present(
            "decline_inverse_offers",
            call.decline_inverse_offers.as_ref(),
        )
        .map(drop),
        call::Type::Kill => present("kill", call.kill.as_ref()).map(drop),
        call::Type::Shutdown => present("shutdown", call.shutdown.as_ref()).map(drop),
        call::Type::Acknowledge => check_uuid(
            "acknowledge.uuid",
            &present("acknowledge", call.acknowledge.as_ref())?.uuid,
        ),
        call::Type::AcknowledgeOperationStatus => {
            let field = "acknowledge_operation_status";
            let acknowledge = present(field, call.acknowledge_operation_status.as_ref())?;
            check_uuid("acknowledge_operation_status.uuid", &acknowledge.uuid)?;
            present(
                "acknowledge_operation_status.agent_id",
                acknowledge.agent_id.as_ref(),
            )
            .map(drop)
        }
        call::Type::Reconcile => present("reconcile", call.reconcile.as_ref()).map(drop),
        call::Type::ReconcileOperations => {
            present("reconcile_operations", call.reconcile_operations.as_ref()).map(drop)
        }
        call::Type::Message => present("message", call.message.as_ref()).map(drop),
        call::Type::Request => present("request", call.request.as_ref()).map(drop),
        call::Type::UpdateFramework => {
            present("update_framework", call.update_framework.as_ref()).map(drop)
        }
        call::Type::Unknown
        | call::Type::Subscribe
        | call::Type::Teardown
        | call::Type::Revive
        | call::Type::Suppress => Ok(()),
    }
}
