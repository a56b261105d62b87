//! Every ceiling, with its unit and where it comes from. A number that bounds something stands here and nowhere else.

use std::time::Duration;

/// Bytes of one contact, inflated: a poll's body or one record of a stream (Fleetspeak: 20 MiB).
pub const CONTACT_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Messages in one contact, in either direction (Fleetspeak: 100).
pub const CONTACT_MESSAGES_MAX: usize = 100;
/// Bytes of one message to an agent, as it travels (Fleetspeak: 2 MiB).
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of an agent's own name for a message.
pub const SOURCE_MESSAGE_ID_BYTES_MAX: usize = 128;
/// Bytes of a service's name, a message's type, a label: 128 characters of four bytes each (Fleetspeak's columns hold 128
/// characters).
pub const NAME_BYTES_MAX: usize = 512;
/// Bytes of a fleet's name.
pub const FLEET_BYTES_MAX: usize = 64;
/// Bytes of a file's name.
pub const FILE_NAME_BYTES_MAX: usize = 512;
/// Bytes of one piece of a file, as stored.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Labels that one agent may claim.
pub const AGENT_LABELS_MAX: usize = 1024;
/// Ids that one machine remembers to have had; without room for another it makes no new key.
pub const AGENT_IDS_MAX: usize = 256;
/// Services in one flow-control map.
pub const CONTACT_SERVICES_MAX: usize = 1024;
/// Extra signatures over a contact, certificates in one, and bytes of both.
pub const CONTACT_SIGNATURES_MAX: usize = 8;
/// Certificates in one extra signature.
pub const SIGNATURE_CERTIFICATES_MAX: usize = 8;
/// Bytes of one extra signature with its certificates.
pub const SIGNATURE_BYTES_MAX: usize = 64 * 1024;
/// Annotations and validation tags in one contact, all messages together. Their bytes are those of the contact, so this
/// bounds nothing but the memory of a contact that consists of empty ones: with 16 bytes each, key and value and what is
/// between them, it is never reached. (Fleetspeak bounds neither; GRR sends up to 100 on a message.)
pub const CONTACT_PAIRS_MAX: usize = CONTACT_BYTES_MAX / 16;
/// Bytes that an annotation or a validation tag takes in memory beside its text.
pub const PAIR_BYTES: usize = 96;
/// Characters of the reason kept with a failed message (Fleetspeak: 900, of which the last three are dots when cut).
pub const FAILED_REASON_CHARS_MAX: usize = 900;
/// Bytes of all request headers together, and how many there may be.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Request headers in one request. (An agent of Fleetspeak names each of its labels in one when it fetches a file.)
pub const HEADERS_MAX: usize = 256;
/// First bytes kept of a message that could not be accepted.
pub const DEAD_LETTER_BYTES_MAX: usize = 1024;
/// Rows kept of messages that could not be accepted, for all agents together.
pub const DEAD_LETTERS_MAX: u64 = 10_000;
/// Rows kept of events: refused contacts, and keys that two machines share.
pub const EVENTS_MAX: u64 = 10_000;
/// Contacts of an agent that are looked at for two machines under one key, when one does not refer to the last.
pub const CHAIN_CONTACTS: u32 = 64;
/// Bytes of one agent's facts, as JSON.
pub const FACTS_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one operation's parameters, as JSON.
pub const MODULE_PARAMETERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one module's result, as JSON.
pub const MODULE_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// First bytes kept of what a module writes to standard error.
pub const MODULE_NOISE_BYTES_MAX: usize = 16 * 1024;
/// Seconds a module may take unless told (MIG's moduletimeout: 300).
pub const MODULE_TIME_S: u64 = 300;
/// Bytes of address space of one module process.
pub const MODULE_MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Seconds of processor time of one module process, or as many as it may take by the clock where that is more.
pub const MODULE_PROCESSOR_S_MAX: u64 = 300;
/// Files one module process may have open.
pub const MODULE_FILES_MAX: u64 = 256;
/// Processes and threads of one module that runs as a user of its own.
pub const MODULE_PROCESSES_MAX: u64 = 64;
/// Bytes of the text of YARA rules in one question.
pub const YARA_RULES_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a file that YARA rules are held against; larger files are named as errors.
pub const YARA_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of all files that one question's YARA rules are held against.
pub const YARA_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Seconds that YARA rules may take for one file (MIG: 10).
pub const YARA_FILE_TIME_S: u64 = 10;
/// Things one list in a module's result names; what is beyond is counted, not named.
pub const MODULE_FOUND_MAX: usize = 50_000;
/// Searches in one operation of the file module.
pub const SEARCHES_MAX: usize = 256;
/// Values of one kind in one search, such as its paths or its names.
pub const SEARCH_VALUES_MAX: usize = 1000;
/// Bytes of one regular expression.
pub const PATTERN_BYTES_MAX: usize = 8 * 1024;
/// Bytes of one regular expression, compiled.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a line that a content check judges as one; longer lines are judged in pieces of this size.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes a module reads of a file that it takes in whole: a package list, a key, a table of the kernel.
pub const WHOLE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of what one machine found for one action, unpacked.
pub const RESULT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of the signature that a machine puts under a result.
pub const RESULT_SIGNATURE_BYTES_MAX: usize = 1024;
/// Memory for results that were unpacked and are being stored, all contacts together.
pub const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of results on one page of a list, unless a single one is larger.
pub const PAGE_RESULT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Rows on one page of a list, at most and unless told.
pub const PAGE_ROWS_MAX: u32 = 1000;
/// Rows on one page of a list unless told.
pub const PAGE_ROWS_DEFAULT: u32 = 100;
/// Bytes of a gRPC request to the admin door (gRPC's own default).
pub const ADMIN_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections open at once to the admin door.
pub const ADMIN_CONNECTIONS_MAX: usize = 1024;
/// Calls under way at once on one connection to the admin door.
pub const ADMIN_CALLS_MAX: u32 = 256;
/// Bytes of one file of a service that writes messages to a directory, before the next is begun.
pub const SPOOL_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Messages that such a service writes in one go.
pub const SPOOL_BATCH_MAX: usize = 1000;
/// How often the spool of actions is looked at.
pub const SPOOL_LOOK: Duration = Duration::from_secs(1);
/// How long a file that was dropped into the spool and cannot be read as an action is taken for one that is still being
/// written, since it changed last.
pub const SPOOL_SETTLE: Duration = Duration::from_secs(5);
/// How often files of the spool whose time is over are removed, and those that are missing noticed.
pub const SPOOL_SWEEP: Duration = Duration::from_secs(60);
/// How often command files of the spool are brought up to date.
pub const SPOOL_COMMANDS_LOOK: Duration = Duration::from_secs(5);
/// How far back the spool looks for actions that ended, beyond its last look: clocks of servers differ.
pub const SPOOL_OVERLAP: Duration = Duration::from_secs(300);
/// How long files of what is done with stay in the spool unless configured (MIG: 72 h).
pub const SPOOL_KEEP: Duration = Duration::from_secs(72 * 3600);
/// Files in one directory of the spool that are looked at in one go.
pub const SPOOL_NAMES_MAX: usize = 20_000;
/// Files of the spool that are read or written in one go.
pub const SPOOL_FILES_AT_ONCE: usize = 64;
/// Actions that have a file in the spool; of more, the newest.
pub const SPOOL_ACTIONS_MAX: usize = 10_000;
/// Commands that have a file in the spool, for all actions together; those of the newest actions.
pub const SPOOL_COMMANDS_MAX: usize = 10_000;
/// Commands of one action that have a file in the spool.
pub const SPOOL_COMMANDS_PER_ACTION_MAX: u32 = 1000;
/// Refused files that are kept in the spool; of more, the newest.
pub const SPOOL_REFUSED_MAX: usize = 10_000;
/// Bytes of a dropped file's name that are kept when it is refused; what is beyond becomes a hash.
pub const SPOOL_NAME_BYTES_MAX: usize = 160;
/// Bytes of a REST request's JSON body.
pub const REST_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Agent ids in one wake-up between servers.
pub const WAKE_AGENTS_MAX: usize = 10_000;
/// Wake-ups from other servers that a server remembers to have believed.
pub const WAKES_REMEMBERED: usize = 65_536;
/// Messages that wait in memory for one service of the server; what finds no room waits in the database.
pub const DISPATCH_MESSAGES_MAX: usize = 10_000;
/// Bytes of the messages that wait in memory for one service of the server.
pub const DISPATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes without which the disk of the database counts as full.
pub const ROOM_BYTES_MIN: u64 = 1024 * 1024;
/// How often the room on the disk of the database is looked at.
pub const ROOM_CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long after the last write that found no room the database counts as full.
pub const FULL_FOR: Duration = Duration::from_secs(10);
/// Rows that one batch reads or writes: results of services, overdue messages, rows that retention deletes.
pub const BATCH_ROWS: u32 = 500;
/// Streams that are given a broadcast at once.
pub const BROADCAST_SENDS_MAX: usize = 64;
/// Agents that a server remembers to have seen, so that it does not ask the database whether they are known.
pub const AGENTS_REMEMBERED: usize = 65_536;
/// Events per minute and network of which a row is kept; the rest is only counted.
pub const EVENT_ROWS_PER_MINUTE: u32 = 30;
/// Sources of news, such as refusals of a network, of which a server remembers when it last wrote a line.
pub const PACED_KEYS: usize = 4096;
/// How long further news of the same kind and source are only counted, in the log.
pub const LINE_EVERY: Duration = Duration::from_secs(60);
/// How long messages of a machine that are lost for the same reason are only counted, in the log and among the events.
pub const LOSS_EVERY: Duration = Duration::from_secs(3600);
/// Services of which lost messages are summed up.
pub const DEAD_LETTER_SERVICES_MAX: u32 = 100;
/// How long lost messages are news for `doctor` and the list of services.
pub const DEAD_LETTERS_NEWS: Duration = Duration::from_secs(86_400);
/// Access tokens that a server remembers to have checked.
pub const TOKENS_REMEMBERED: usize = 1024;

/// Bytes of one signed action, as JSON.
pub const ACTION_BYTES_MAX: usize = 1024 * 1024;
/// Characters of an action's name or of its target (MIG's columns hold 2,048).
pub const ACTION_NAME_CHARS_MAX: usize = 2048;
/// More failures than so many per cent halt an action between two shares of machines, unless told.
pub const ACTION_HALT_PERCENT: u8 = 10;
/// Operations in one action.
pub const ACTION_OPERATIONS_MAX: usize = 64;
/// Levels of arrays and objects in an action.
pub const ACTION_DEPTH_MAX: usize = 64;
/// Signatures on one action or on one signed document.
pub const ACTION_SIGNATURES_MAX: usize = 16;
/// Bytes of one OpenPGP signature, as text.
pub const PGP_SIGNATURE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one OpenPGP key, armored (MIG's column holds 65,536).
pub const PGP_KEY_BYTES_MAX: usize = 64 * 1024;
/// Keys in one keyring.
pub const KEYRING_KEYS_MAX: usize = 1024;
/// Bytes of an ACL or of a signed document.
pub const TRUST_DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Certificates that one document of administrators revokes.
pub const REVOCATIONS_MAX: usize = 10_000;
/// Bytes of weights that a machine reports as they are: beside all else that it reports they fit into a message. Of more it
/// reports how many, and their digest.
pub const TRUST_REPORT_ACL_BYTES_MAX: usize = 1024 * 1024;
/// The largest weight that an ACL may give or demand.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Characters of a target (MIG: 2048, the width of its column).
pub const TARGET_CHARS_MAX: usize = 2048;
/// Parentheses and negations inside each other in a target.
pub const TARGET_DEPTH_MAX: usize = 64;
/// Values in one list of a target.
pub const TARGET_LIST_MAX: usize = 10_000;
/// Steps of one path into a document, in a target.
pub const TARGET_PATH_STEPS_MAX: usize = 16;
/// Nodes that a regular expression of a target may have once its repetitions are written out.
pub const TARGET_REGEX_NODES_MAX: usize = 512;
/// Targets that are kept under a name.
pub const NAMED_TARGETS_MAX: usize = 1000;

/// Bytes of what a named target is said to be for.
pub const TARGET_DESCRIPTION_BYTES_MAX: usize = 1024;
/// Machines that are shown of those a target picks, unless told, and at most.
pub const TARGET_MACHINES_SHOWN: u32 = 10;
/// See [`TARGET_MACHINES_SHOWN`].
pub const TARGET_MACHINES_SHOWN_MAX: u32 = 100;
/// Machines that are shown of those that come nearest to a target that picks none.
pub const TARGET_NEAREST_SHOWN: u32 = 3;

/// Rows that one search gives (MIG: as many as are asked for).
pub const SEARCH_ROWS_MAX: u32 = 10_000;
/// Machines that one search by a target gives: as many as `mig` asks for when it counts whom an action would reach.
pub const SEARCH_TARGET_ROWS_MAX: u64 = 1_000_000;
/// Bytes of results in the answer to one search; what is beyond is named and left out.
pub const SEARCH_RESULT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of one answer of the REST API that the command line reads: a page of results, or one that is larger alone.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that the command line reads of an answer that says why something was refused.
pub const PROBLEM_BYTES_MAX: usize = 64 * 1024;
/// Rows that the command line reads of one list with `--all`.
pub const LIST_ROWS_MAX: usize = 1_000_000;
/// Results of one action that the command line reads: machines that answered.
pub const RESULTS_READ_MAX: usize = 2_000_000;
/// Different values in one table of results on the command line.
pub const RESULT_VALUES_MAX: usize = 200_000;
/// Bytes of the different values in one table of results on the command line.
pub const RESULT_VALUES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Machines that a person approved in one book of known machines on the person's machine.
pub const KNOWN_MACHINES_MAX: usize = 200_000;
/// Machines in one book that nobody approved: what answers brought in. The oldest make room for new ones.
pub const KNOWN_UNAPPROVED_MAX: usize = 2_000;
/// Bytes of the file of such a book.
pub const KNOWN_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Characters of a machine's name in it (names of hosts have 253).
pub const KNOWN_NAME_CHARS_MAX: usize = 253;
/// Characters of one pattern of a search (MIG's columns hold 2,048).
pub const SEARCH_PATTERN_CHARS_MAX: usize = 2048;
/// Bytes of a body at MIG's API: an action whose every byte may be written as three, or a key.
pub const MIG_BODY_BYTES_MAX: usize = 3 * ACTION_BYTES_MAX + 64 * 1024;
/// Bytes of the heartbeat of one of MIG's agents (MIG: 100 kB).
pub const MIG_HEARTBEAT_BYTES_MAX: usize = 100_000;
/// Bytes of a signed token, of its three parts before the signature and of an API key.
pub const MIG_TOKEN_BYTES_MAX: usize = PGP_SIGNATURE_BYTES_MAX + 128;

/// How long one search may take in the database.
pub const SEARCH_TIME_MAX: Duration = Duration::from_secs(2);
/// How long the database may look for the machines that a target matches.
pub const TARGET_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a message handed to an agent waits for its acknowledgement before it falls due again (Fleetspeak: 15 min).
pub const AGENT_RETRY: Duration = Duration::from_secs(15 * 60);
/// How soon what a broken stream left unacknowledged falls due again for an agent that remembers what it was given. Any
/// other is given again what may have arrived after [`AGENT_RETRY`] only.
pub const STREAM_RELEASE: Duration = Duration::from_secs(5);
/// First pause before a service gets a message again (Fleetspeak: 60 s, times 1.1 for each try, times 1 to 2).
pub const SERVICE_RETRY: Duration = Duration::from_secs(60);
/// How often messages that wait in memory for a service are kept from falling due.
pub const SERVICE_KEEP_EVERY: Duration = Duration::from_secs(5);
/// How long before it falls due a message in memory is kept for longer. A call begins only when there is time for it.
pub const SERVICE_KEEP_BEFORE: Duration = Duration::from_secs(45);
/// How often a service that does not take messages is tried with one of those that wait.
pub const SERVICE_TRY_EVERY: Duration = Duration::from_secs(5);
/// How long one service may take over one message (Fleetspeak: 30 s).
pub const SERVICE_CALL_MAX: Duration = Duration::from_secs(30);
/// Calls under way at once to one service, unless configured (Fleetspeak: 100).
pub const SERVICE_PARALLELISM: u32 = 100;
/// How often overdue messages are looked for (Fleetspeak: 300 ms).
pub const OVERDUE_SCAN: Duration = Duration::from_millis(300);
/// How long a stream lives (Fleetspeak: 10 min).
pub const STREAM_LIFE: Duration = Duration::from_secs(600);
/// How long before its end a stream says that nothing more will be sent (Fleetspeak: 30 s).
pub const STREAM_CLOSING: Duration = Duration::from_secs(30);
/// How long the first record of a stream may take (Fleetspeak: 3 min).
pub const STREAM_FIRST_RECORD: Duration = Duration::from_secs(180);
/// How long request headers, or a body that brings nothing, may take.
pub const SLOW_READ: Duration = Duration::from_secs(15);
/// How long a reader that takes nothing holds a connection.
pub const SLOW_WRITE: Duration = Duration::from_secs(30);
/// How long TLS may take to be agreed.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a server takes to stop, at most.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How soon a change of an agent's state reaches a stream that is open.
pub const STATE_CHECK: Duration = Duration::from_secs(2);
/// How often a server looks for messages whose wake-up was lost.
pub const WAKE_SWEEP: Duration = Duration::from_secs(5);
/// How often a server notes that it holds the stream of a machine, so that this counts as being in contact. Reports and
/// MIG's queries take a machine for offline that was not heard of for five minutes.
pub const HEARD_EVERY: Duration = Duration::from_secs(120);
/// How often a server says that it lives.
pub const SERVER_BEAT: Duration = Duration::from_secs(5);
/// Without a beat for so long, a server is taken for dead.
pub const SERVER_DEAD: Duration = Duration::from_secs(30);
/// How long a server's share of a broadcast lasts (Fleetspeak: 10 min).
pub const ALLOCATION_LIFE: Duration = Duration::from_secs(600);
/// How often broadcasts are looked for when no wake-up came.
pub const BROADCAST_POLL: Duration = Duration::from_secs(2);
/// How far the clocks of two servers may be apart without a message being late.
pub const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// How old a wake-up may be, and so how far the clocks of two servers may be apart for them to wake each other.
pub const WAKE_AGE_MAX: Duration = Duration::from_secs(60);
/// How long a call to wake another server may take.
pub const WAKE_CALL_MAX: Duration = Duration::from_secs(5);
/// How long a checked access token is believed without asking the database again.
pub const TOKEN_MEMORY: Duration = Duration::from_secs(5);
/// How long the record of a stream waits for its agent's rate before it is refused.
pub const RATE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a demand for a new key to an agent that owes one waits; there is one for each such span of time.
pub const REKEY_LIFE: Duration = Duration::from_secs(86_400);
/// How often old rows are deleted.
pub const RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// How often messages are parked whose time is over, and shares of dead servers are taken back.
pub const PARK_EVERY: Duration = Duration::from_secs(30);
/// How long a server holds a job that only one does at a time.
pub const JOB_LEASE: Duration = Duration::from_secs(120);
/// How long the question for its facts waits for a machine that was approved.
pub const FACTS_REQUEST_LIFE: Duration = Duration::from_secs(86_400);
/// Two machines that share a key are news again when there was no sign of them for so long.
pub const CLONE_NEWS: Duration = Duration::from_secs(3600);
/// After so long without a sign of two machines that share a key, they are shown as such no longer.
pub const CLONE_FORGOTTEN: Duration = Duration::from_secs(86_400);
/// The pause after the first sign that two machines share a key; each further sign doubles it.
pub const CLONE_PAUSE_MIN: Duration = Duration::from_secs(2);
/// The longest such pause.
pub const CLONE_PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// Keys whose pauses a server remembers.
pub const CLONES_REMEMBERED: usize = 10_000;
/// Bytes of what a machine shows of itself with its first contacts.
pub const INTRODUCTION_BYTES_MAX: usize = 16 * 1024;
/// Machines that look like one, at most so many are shown.
pub const LOOKALIKES_MAX: u32 = 20;
/// How long contacts and usage records are kept unless configured (14 days).
pub const CONTACT_RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// How long finished messages are kept unless configured (15 days).
pub const MESSAGE_RETENTION: Duration = Duration::from_secs(15 * 86_400);
/// How long a message waits for its addressee before it is parked, unless it says itself (30 days).
pub const MESSAGE_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How often an agent is expected to be heard of, unless configured (MIG's heartbeatfreq).
pub const AGENT_HEARTBEAT: Duration = Duration::from_secs(5 * 60);
/// After so many heartbeats that did not come, an agent is idle (MIG).
pub const AGENT_HEARTBEATS_MISSED: u32 = 5;
/// After how long an idle agent is offline, unless configured (MIG's timeout).
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// How long an agent is idle at least before it is offline (MIG looks at its agents so often).
pub const AGENT_IDLE_MIN: Duration = Duration::from_secs(87);
/// How often the fleet is counted, unless configured.
pub const STATISTICS_EVERY: Duration = Duration::from_secs(5 * 60);
/// How long commands of actions that are done with are kept, and their results, unless configured (180 days).
pub const COMMAND_RETENTION: Duration = Duration::from_secs(180 * 86_400);
/// How long sessions of agents that ended are kept unless configured (30 days).
pub const SESSION_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// How long statistics are kept unless configured (30 days).
pub const STATISTICS_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// Machines that never told their weights, and whose notes on the server a preview looks at.
pub const PREVIEW_NOTED_MAX: u32 = 1000;
/// Different demands that a preview tells, those of most machines first.
pub const PREVIEW_DEMANDS_MAX: usize = 50;
/// From an action's first moment to its last, at most.
pub const ACTION_WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long an agent remembers what it ran beyond the action's last moment.
pub const LEDGER_MEMORY: Duration = Duration::from_secs(8 * 86_400);
/// How far ahead the end of an order may lie whose cancellation a machine takes: the longest window of an order that it would
/// run, and a day because clocks differ.
pub const CANCEL_AHEAD_MAX: Duration = Duration::from_secs(8 * 86_400);
/// Cancellations that a machine remembers of one signer. While one more found no room, orders that this signer may call back
/// are refused.
pub const CANCELS_PER_SIGNER_MAX: usize = 300;
/// Cancellations of one action that the server keeps of one signer, each for another fleet: one more takes the place of the
/// signer's oldest.
pub const ACTION_CANCELS_PER_SIGNER_MAX: usize = 8;
/// Cancellations of one action that the server keeps of all those together who did not sign the action. Those who signed it
/// have room beside them.
pub const ACTION_CANCELS_OF_OTHERS_MAX: usize = 64;
/// How far an agent's clock may stand behind what it knows to be past before it refuses every action.
pub const TIME_FLOOR_SLACK: Duration = Duration::from_secs(10 * 60);
/// How far in the future a signature may say it was made, because clocks differ.
pub const SIGNATURE_SKEW: Duration = Duration::from_secs(5 * 60);
