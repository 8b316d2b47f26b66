mod authorization_policy;
mod peer_authentication;
mod request_authentication;
