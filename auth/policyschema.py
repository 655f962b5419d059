"""The Cedar schema of the gateway and the policy that a new home starts with. Text only.

The schema is the table of what each kind of principal may do *at most*: no policy can give a worker more than the
reverse role, nor a client a way to dispatch.
"""

from __future__ import annotations

__all__ = ["DEFAULT_POLICY", "SCHEMA_TEXT"]

SCHEMA_TEXT = """\
// The schema of rhttp-pki policies. This copy is for editors; the gateway uses its own and never reads this file.

type Circumstances = {
  listener: String,      // "tls", "dispatch", "enroll"
  protocol: String,      // "http/1.1"; for reverse what the worker asks for, e.g. "ptth/1.0"
  digest?: String,       // the Digest algorithm, e.g. "SHA-256"; absent: no Digest credentials were given
  tls_version?: String,  // e.g. "TLSv1.3"; absent without TLS
  method?: String,       // e.g. "POST"
  path?: String,         // the normal path, without a query
  source?: ipaddr,       // IPv4-mapped addresses unmapped, no zone; absent on a unix socket
  now?: datetime,        // to the minute
  key_type?: String,     // of the key in the certificate, e.g. "p256", "mldsa65"; absent without TLS
  group?: String,        // of the TLS key exchange, e.g. "X25519MLKEM768", "x25519", "secp256r1"; absent without TLS
};

entity Group;            // [groups] in gateway.toml
entity Route;            // the name of a [[routes]] entry
entity Pool;             // the name of a [pools.NAME] table
entity Role;             // "client", "worker", "master"

entity Client in [Group];
entity Worker in [Group] {
  pool: Pool,            // the pool in its certificate
  labels: Set<String>,   // "k=v" for each label of its certificate
};
entity Master in [Group];
entity Token {           // an enrolment token, by its id
  role: Role,            // what it makes
  pool?: Pool,           // of a token for workers: the pool of its workers
  labels: Set<String>,   // "k=v" for each label that its certificates get
};

action request appliesTo { principal: [Client], resource: [Route], context: Circumstances };
action reverse appliesTo { principal: [Worker], resource: [Pool], context: Circumstances };
action dispatch appliesTo { principal: [Master], resource: [Pool], context: Circumstances };
action inspect appliesTo { principal: [Client, Master], resource: [Pool], context: Circumstances };
// A first certificate (Token), or the next one (the others): a worker's pool, of clients and masters the role.
action enroll appliesTo { principal: [Token, Client, Worker, Master], resource: [Pool, Role], context: Circumstances };
"""

DEFAULT_POLICY = """\
// Who may do what. Nothing is allowed that no policy permits, and one `forbid` outweighs every `permit`.
// Every policy needs an @id of its own: the audit log and `rhttp-pki policy explain` show it.
// After a change: `rhttp-pki policy check`, then `rhttp-pki reload`.

@id("clients-request-routes")
permit (principal is Client, action == Action::"request", resource)
when { context has digest };

@id("clients-inspect-pools")
permit (principal is Client, action == Action::"inspect", resource)
when { context has digest };

// A worker takes the reverse role in the pool that its certificate names, nowhere else.
@id("workers-reverse-into-own-pool")
permit (principal is Worker, action == Action::"reverse", resource)
when { context has digest && principal.pool == resource };

@id("masters-dispatch-and-inspect")
permit (principal is Master, action in [Action::"dispatch", Action::"inspect"], resource)
when { context has digest };

// Whoever has an enrolment token's secret gets a certificate of the token's role and pool.
@id("tokens-enroll")
permit (principal is Token, action == Action::"enroll", resource)
when { context has digest && (resource == principal.role || (principal has pool && resource == principal.pool)) };

// Whoever has a certificate and its password gets the next one, for the same name, role and pool.
@id("workers-renew")
permit (principal is Worker, action == Action::"enroll", resource)
when { context has digest && principal.pool == resource };
@id("clients-renew")
permit (principal is Client, action == Action::"enroll", resource == Role::"client")
when { context has digest };
@id("masters-renew")
permit (principal is Master, action == Action::"enroll", resource == Role::"master")
when { context has digest };

// Masters on this host, through the dispatch listener, which asks nobody for credentials.
@id("local-master-dispatches-and-inspects")
permit (principal == Master::"local", action in [Action::"dispatch", Action::"inspect"], resource)
when { context.listener == "dispatch" };
"""
