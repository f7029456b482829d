//! What the background task and every clone of the scheduler have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::Uri;
use hyper::header::HeaderValue;
use prost::Message as _;
use tepui_access::Credential;
use tepui_api::v1::scheduler::{Call, OfferConstraints, call};
use tepui_api::v1::{FrameworkId, FrameworkInfo, TaskStatus};

use crate::error::CallError;
use crate::transport::{Transport, TransportError};

/// Whether calls can be made.
#[derive(Clone)]
pub(crate) enum Session {
    /// There is no subscription; the sentence says why.
    Away(String),
    Live {
        master: Uri,
        stream_id: HeaderValue,
    },
}

/// What the next SUBSCRIBE will say.
struct Subscription {
    framework: FrameworkInfo,
    suppressed_roles: Vec<String>,
    offer_constraints: Option<OfferConstraints>,
}

struct State {
    session: Session,
    subscription: Subscription,
}

pub(crate) struct Shared {
    pub(crate) transport: Transport,
    state: Mutex<State>,
    /// A teardown is under way or done: a stream that ends now is not renewed.
    tearing_down: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        credential: Option<&Credential>,
        framework: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) -> Self {
        Self {
            transport: Transport::new(credential),
            state: Mutex::new(State {
                session: Session::Away("the framework is not subscribed yet".to_owned()),
                subscription: Subscription {
                    framework,
                    suppressed_roles,
                    offer_constraints: None,
                },
            }),
            tearing_down: AtomicBool::new(false),
        }
    }

    /// Which agents may be offered, from the next subscription on.
    pub(crate) fn constrain(&self, offer_constraints: Option<OfferConstraints>) {
        self.lock().subscription.offer_constraints = offer_constraints;
    }

    pub(crate) fn offer_constraints(&self) -> Option<OfferConstraints> {
        self.lock().subscription.offer_constraints.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn framework_id(&self) -> Option<FrameworkId> {
        let state = self.lock();
        // Some clients write an empty id for "none yet".
        state
            .subscription
            .framework
            .id
            .clone()
            .filter(|id| !id.value.is_empty())
    }

    pub(crate) fn set_session(&self, session: Session) {
        self.lock().session = session;
    }

    pub(crate) fn subscribed(
        &self,
        framework_id: FrameworkId,
        master: Uri,
        stream_id: HeaderValue,
    ) {
        let mut state = self.lock();
        state.subscription.framework.id = Some(framework_id);
        state.session = Session::Live { master, stream_id };
    }

    pub(crate) fn tearing_down(&self) -> bool {
        self.tearing_down.load(Ordering::SeqCst)
    }

    pub(crate) fn set_tearing_down(&self, tearing_down: bool) {
        self.tearing_down.store(tearing_down, Ordering::SeqCst);
    }

    /// The SUBSCRIBE call of the moment.
    pub(crate) fn subscribe(&self) -> Bytes {
        let framework_id = self.framework_id();
        let state = self.lock();
        let mut framework_info = state.subscription.framework.clone();
        framework_info.id.clone_from(&framework_id);
        let call = Call {
            framework_id,
            r#type: Some(call::Type::Subscribe as i32),
            subscribe: Some(call::Subscribe {
                framework_info,
                suppressed_roles: state.subscription.suppressed_roles.clone(),
                offer_constraints: state.subscription.offer_constraints.clone(),
            }),
            ..Call::default()
        };
        Bytes::from(call.encode_to_vec())
    }

    /// Remembers what UPDATE_FRAMEWORK changed. The id stays.
    pub(crate) fn update(&self, mut framework: FrameworkInfo, suppressed_roles: Vec<String>) {
        let mut state = self.lock();
        framework.id = state.subscription.framework.id.take();
        state.subscription.framework = framework;
        state.subscription.suppressed_roles = suppressed_roles;
    }

    /// Remembers which roles want no offers. An empty list means all of the framework's.
    pub(crate) fn suppress(&self, roles: &[String], suppressed: bool) {
        let subscription = &mut self.lock().subscription;
        let framework = &subscription.framework;
        let roles = match roles {
            [] if framework.roles.is_empty() => vec![framework.role().to_owned()],
            [] => framework.roles.clone(),
            some => some.to_vec(),
        };
        subscription
            .suppressed_roles
            .retain(|role| !roles.contains(role));
        if suppressed {
            subscription.suppressed_roles.extend(roles);
        }
    }

    /// The call that acknowledges a status, if it asks for it.
    pub(crate) fn acknowledgement(&self, status: &TaskStatus) -> Option<Call> {
        let uuid = status.uuid.clone().filter(|uuid| !uuid.is_empty())?;
        Some(Call {
            r#type: Some(call::Type::Acknowledge as i32),
            acknowledge: Some(call::Acknowledge {
                agent_id: status.agent_id.clone()?,
                task_id: status.task_id.clone(),
                uuid,
            }),
            ..Call::default()
        })
    }

    /// Makes a call under the present subscription.
    pub(crate) async fn call(&self, mut call: Call) -> Result<(), CallError> {
        let kind = call.r#type().as_str_name();
        let failed = |status, message| CallError {
            call: kind,
            status,
            message,
        };
        if call.framework_id.is_none() {
            call.framework_id = self.framework_id();
        }
        let session = self.lock().session.clone();
        let (master, stream_id) = match session {
            Session::Live { master, stream_id } => (master, stream_id),
            Session::Away(why) => return Err(failed(None, why)),
        };
        let body = Bytes::from(call.encode_to_vec());
        match self.transport.call(&master, &stream_id, body).await {
            Ok(()) => Ok(()),
            Err(TransportError::Refused { status, message }) => Err(failed(Some(status), message)),
            Err(error) => Err(failed(None, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_of_the_next_subscribe(shared: &Shared) -> Vec<String> {
        let call = Call::decode(shared.subscribe()).unwrap();
        call.subscribe.unwrap().suppressed_roles
    }

    #[test]
    fn suppressed_roles_are_kept_for_the_next_subscription() {
        let framework = FrameworkInfo {
            roles: vec!["a".into(), "b".into()],
            ..FrameworkInfo::default()
        };
        let shared = Shared::new(None, framework, vec!["a".into()]);
        assert_eq!(roles_of_the_next_subscribe(&shared), ["a"]);
        shared.suppress(&[], true);
        assert_eq!(roles_of_the_next_subscribe(&shared), ["a", "b"]);
        shared.suppress(&["a".into()], false);
        assert_eq!(roles_of_the_next_subscribe(&shared), ["b"]);
        shared.suppress(&[], false);
        assert!(roles_of_the_next_subscribe(&shared).is_empty());
    }

    #[test]
    fn an_updated_description_keeps_the_id() {
        let id = FrameworkId { value: "F".into() };
        let framework = FrameworkInfo {
            id: Some(id.clone()),
            ..FrameworkInfo::default()
        };
        let shared = Shared::new(None, framework, Vec::new());
        shared.update(
            FrameworkInfo {
                name: "new".into(),
                ..FrameworkInfo::default()
            },
            Vec::new(),
        );
        assert_eq!(shared.framework_id(), Some(id.clone()));
        let call = Call::decode(shared.subscribe()).unwrap();
        assert_eq!(call.framework_id, Some(id));
        assert_eq!(call.subscribe.unwrap().framework_info.name, "new");
    }
}
