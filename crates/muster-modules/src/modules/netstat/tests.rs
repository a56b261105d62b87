use super::addresses::Range;
use super::*;
use crate::module::Module as _;
use crate::modules::testing::{context, fixture, lay, same_form};
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const REST: &str = "00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n";

/// A machine whose kernel shows these tables.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("proc/net");
    std::fs::create_dir_all(&net).unwrap();
    let write = |name: &str, rows: &[&str]| {
        let rows: Vec<String> = rows.iter().zip(0..).map(|(row, n)| format!("   {n}: {row} {REST}")).collect();
        std::fs::write(net.join(name), format!("{HEAD}{}", rows.concat())).unwrap();
    };
    write(
        "tcp",
        &["0100007F:54A0 00000000:0000 0A", "0100007F:54A0 0100007F:ECAC 01", "0A00000A:01BB 0B00000A:C000 06"],
    );
    let mapped = "0000000000000000FFFF00000100000A:0016 0000000000000000FFFF00000200000A:D431 01";
    write("tcp6", &["00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A", mapped]);
    write("udp", &["00000000:0035 00000000:0000 07"]);
    let arp = "IP address HW type Flags HW address Mask Device\n10.0.0.2 0x1 0x2 02:42:0a:00:00:02 * eth0\n";
    std::fs::write(net.join("arp"), arp).unwrap();
    dir
}

fn ask(parameters: &Value) -> ModuleResult {
    let dir = machine();
    Netstat.run(parameters, &context(dir.path()))
}

fn lines(parameters: &Value) -> Vec<String> {
    <Netstat as Typed>::lines(&ask(parameters), Lines::Found)
}

#[test]
fn connections_are_found_by_address_and_range_in_both_versions() {
    assert_eq!(
        lines(&json!({"connectedip": ["10.0.0.0/8", "127.0.0.1"]})),
        [
            "found connected tuple 10.0.0.11:49152 with local tuple 10.0.0.10:443 for netstat connectedip:'10.0.0.0/8'",
            "found connected tuple 10.0.0.2:54321 with local tuple 10.0.0.1:22 for netstat connectedip:'10.0.0.0/8'",
            "found connected tuple 127.0.0.1:60588 with local tuple 127.0.0.1:21664 for netstat connectedip:'127.0.0.1'",
        ]
    );
    let none = ask(&json!({"connectedip": ["192.0.2.1"]}));
    assert!(none.success && !none.foundanything);
    assert_eq!(none.elements, json!({"connectedip": {"192.0.2.1": null}}));
    let all = <Netstat as Typed>::lines(&none, Lines::All);
    assert_eq!(all[0], "did not find anything for netstat connectedip:'192.0.2.1'");
}

#[test]
fn a_table_that_cannot_be_read_is_no_empty_one() {
    let dir = machine();
    for table in ["tcp", "arp"] {
        std::fs::remove_file(dir.path().join("proc/net").join(table)).unwrap();
    }
    for (asked, is_known) in [
        (json!({"connectedip": ["192.0.2.1"]}), false),
        (json!({"listeningport": ["53"]}), false),
        (json!({"neighborip": ["192.0.2.1"]}), false),
        (json!({"localip": ["192.0.2.1"]}), true),
    ] {
        let result = Netstat.run(&asked, &context(dir.path()));
        assert!(result.success == is_known && result.errors().is_empty() == is_known, "{asked}: {result:?}");
    }
    // What was found in the other tables stays.
    assert!(Netstat.run(&json!({"listeningport": ["53"]}), &context(dir.path())).foundanything);
    std::fs::remove_dir_all(dir.path().join("proc")).unwrap();
    let result = Netstat.run(&json!({"listeningport": ["53"], "namespaces": true}), &context(dir.path()));
    assert!(!result.success && result.errors()[0].starts_with("could not list the processes"), "{result:?}");
}

#[test]
fn listening_ports_are_those_that_listen() {
    let found = ask(&json!({"listeningport": ["21664", "22", "53", "443"]}));
    assert_eq!(found.elements["listeningport"]["21664"].as_array().unwrap().len(), 1, "a connection does not listen");
    assert_eq!(found.elements["listeningport"]["22"][0]["localaddr"], json!("::"));
    assert_eq!(
        found.elements["listeningport"]["53"][0],
        json!({"localaddr": "0.0.0.0", "localport": 53, "namespace": "default"})
    );
    assert!(found.elements["listeningport"]["443"].is_null());
    assert_eq!(found.statistics["totalhits"], json!(3));
}

#[test]
fn neighbours_are_found_by_both_addresses() {
    let line = "found neighbor mac 02:42:0a:00:00:02 10.0.0.2 for netstat neighbormac:'^02:42'";
    assert_eq!(lines(&json!({"neighbormac": ["^02:42"]})), [line]);
    let line = "found neighbor ip 10.0.0.2 02:42:0a:00:00:02 for netstat neighborip:'10.0.0.0/24'";
    assert_eq!(lines(&json!({"neighborip": ["10.0.0.0/24"]})), [line]);
}

#[test]
fn this_machine_answers_in_the_form_of_the_original() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let parameters = json!({
        "localip": ["127.0.0.0/8"], "connectedip": ["127.0.0.1"], "listeningport": [port.to_string()]
    });
    let result = Netstat.run(&parameters, &context(Path::new("/")));
    let mut want = serde_json::to_string(&fixture("netstat")).unwrap();
    want = want.replace("\"21664\":[", &format!("\"{port}\":["));
    same_form(&result, &serde_json::from_str(&want).unwrap());
    assert_eq!(result.elements["localip"]["127.0.0.0/8"][0], json!({"localaddr": "127.0.0.1"}));
    let everywhere = json!({"listeningport": [port.to_string()], "namespaces": true});
    let result = Netstat.run(&everywhere, &context(Path::new("/")));
    let namespace = result.elements["listeningport"][port.to_string()][0]["namespace"].as_str().unwrap_or_default();
    assert!(namespace.starts_with("net:["), "{result:?}");
}

#[test]
fn what_is_no_address_is_refused_in_migs_words() {
    let refused = |field: &str, value: &str| Netstat.validate(&json!({(field): [value]})).unwrap_err().0;
    assert!(refused("localmac", "(").starts_with("Invalid MAC regexp '('. Compilation failed with '"));
    assert_eq!(refused("localip", "10.0.0"), "invalid IPv{4,6} 10.0.0. Must be an IP or a CIDR.");
    for value in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "x/8", "::/129"] {
        let want = format!("invalid IPv{{4,6}} CIDR {value}: invalid CIDR address: {value}. Must be an IP or a CIDR.");
        assert_eq!(refused("connectedip", value), want);
        assert_eq!(refused("neighborip", value), want);
    }
    assert_eq!(refused("listeningport", "http"), "http is not a valid port");
    assert_eq!(refused("listeningport", "65536"), "port out of range. must be between 1 and 65535");
    for nothing in [json!({}), json!({"namespaces": true}), json!({"listeningport": []})] {
        assert!(Netstat.validate(&nothing).unwrap_err().0.starts_with("without a check nothing is found"), "{nothing}");
    }
}

#[test]
fn a_range_holds_what_begins_as_it_does() {
    for (range, address, want) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("0.0.0.0/0", "::1", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("::ffff:192.0.2.1", "192.0.2.1", true),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("::/0", "ff::", true),
        ("fe80::1", "fe80::2", false),
    ] {
        assert_eq!(Range::parse(range).unwrap().contains(address.parse().unwrap()), want, "{range} {address}");
    }
}

#[test]
fn a_command_line_asks_as_migs_does() {
    let words = ["-ci", "10.0.0.0/8", "-ci", "::1", "-lp", "22", "-namespaces"].map(String::from);
    let parameters = crate::params_from_args("netstat", &words).unwrap();
    assert_eq!(parameters, json!({"connectedip": ["10.0.0.0/8", "::1"], "listeningport": ["22"], "namespaces": true}));
}

/// A machine with one table of those that people met, and empty ones beside it.
fn with_table(name: &str, from: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("proc/net")).unwrap();
    for table in ["tcp", "tcp6", "udp", "udp6", "arp"] {
        std::fs::write(dir.path().join("proc/net").join(table), HEAD).unwrap();
    }
    lay(dir.path(), &format!("proc/net/{name}"), from);
    dir
}

fn found_in(name: &str, from: &str, parameters: &Value) -> (Vec<String>, Vec<String>) {
    let dir = with_table(name, from);
    let result = Netstat.run(parameters, &context(dir.path()));
    assert!(result.success, "{result:?}");
    let root = dir.path().to_str().unwrap();
    let errors = result.errors().iter().map(|error| error.replace(root, "")).collect();
    (<Netstat as Typed>::lines(&result, Lines::Found), errors)
}

/// Returns the neighbours found by an expression for their hardware addresses, and the errors.
fn neighbours(from: &str, expression: &str) -> (Vec<String>, Vec<String>) {
    let (lines, errors) = found_in("arp", &format!("04-arp/{from}"), &json!({"neighbormac": [expression]}));
    let short =
        |line: &String| line.strip_prefix("found neighbor mac ").unwrap().split(" for ").next().unwrap().to_owned();
    (lines.iter().map(short).collect(), errors)
}

#[test]
fn case_04_hardware_addresses_are_whole_whatever_their_length() {
    let long = "80:00:02:08:fe:80:00:00:00:00:00:00:00:11:22:33:44:55:66:77 192.0.2.10";
    let (found, errors) = neighbours("arp-infiniband", ".");
    assert_eq!(found, ["52:54:00:12:34:56 192.0.2.1", "80:00:02:08:fe:80:00:00:00 192.0.2.9", long]);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(neighbours("arp-infiniband", "66:77$").0, [long]);
    assert_eq!(neighbours("arp-ax25", "^n0call").0, ["N0CALL-1 192.0.2.7"], "letters of either case");
}

#[test]
fn case_04_a_neighbour_without_an_address_costs_no_other() {
    let (found, errors) = found_in("arp", "04-arp/arp-no-hardware", &json!({"neighborip": ["192.0.2.0/24"]}));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[1].starts_with("found neighbor ip 192.0.2.5  for "), "{found:?}");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(neighbours("arp-no-hardware", ".").0.len(), 2, "what has no address has none that matches");
    assert_eq!(neighbours("arp-empty", "."), (Vec::new(), Vec::new()));
}

#[test]
fn case_04_a_neighbour_that_is_not_complete_is_shown_as_such() {
    let (found, _) = neighbours("arp-incomplete", ".");
    assert_eq!(
        found,
        [
            "52:54:00:12:34:56 192.0.2.1",
            "00:00:00:00:00:00 192.0.2.2 (incomplete)",
            "52:54:00:12:34:57 192.0.2.3",
            "02:00:00:00:00:01 192.0.2.4 (published)",
        ]
    );
}

/// Returns what is found in a table of sockets, without what was asked, and the errors.
fn sockets(table: &str, from: &str) -> (Vec<String>, Vec<String>) {
    let parameters = json!({
        "connectedip": ["192.0.2.11", "192.0.2.12"],
        "listeningport": ["22", "631", "8081", "8082", "68", "69", "70"],
    });
    let (lines, errors) = found_in(table, &format!("05-proc-net-tcp/{from}"), &parameters);
    let short = |line: &String| line.strip_prefix("found ").unwrap().split(" for ").next().unwrap().to_owned();
    (lines.iter().map(short).collect(), errors)
}

const SSH: &str = "listening port 22";
const TO_11: &str = "connected tuple 192.0.2.11:50000 with local tuple 192.0.2.10:443";
const TO_12: &str = "connected tuple 192.0.2.12:50001 with local tuple 192.0.2.10:8080";

#[test]
fn case_05_a_bad_row_costs_itself_and_is_counted() {
    assert_eq!(sockets("tcp", "tcp-plain"), (vec![TO_11.into(), TO_12.into(), SSH.into()], Vec::new()));
    for bad in ["tcp-garbage-row", "tcp-cut-row"] {
        let (found, errors) = sockets("tcp", bad);
        assert_eq!(found, [TO_11, TO_12, SSH], "{bad}");
        assert_eq!(errors, ["/proc/net/tcp: 1 of 4 rows could not be read and was left out: line 4"], "{bad}");
    }
}

#[test]
fn case_05_states_that_are_not_known_are_shown_as_such() {
    assert_eq!(sockets("tcp", "tcp-state-0C").0, [TO_11, TO_12, SSH], "a request of a connection does not listen");
    let odd = "listening port 8081 (unknown state 0D)";
    assert_eq!(sockets("tcp", "tcp-state-0D"), (vec![TO_11.into(), TO_12.into(), SSH.into(), odd.into()], Vec::new()));
    let (found, errors) = sockets("udp", "udp-state-02");
    assert_eq!(found, ["listening port 68", "listening port 69 (unknown state 02)", "listening port 70"]);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn case_05_rows_beyond_9999_and_mapped_addresses_are_read() {
    let (found, errors) = sockets("tcp", "tcp-10000-rows");
    assert_eq!((found.len(), errors.len()), (10, 0), "{found:?} {errors:?}");
    let (found, errors) = sockets("tcp6", "tcp6-mapped");
    assert_eq!(found, [SSH, "listening port 631", "listening port 8082"]);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn case_05_a_table_that_cannot_be_read_is_named_and_the_others_are_searched() {
    let dir = with_table("tcp6", "05-proc-net-tcp/tcp6-mapped");
    std::fs::remove_file(dir.path().join("proc/net/tcp")).unwrap();
    let result = Netstat.run(&json!({"listeningport": ["22"]}), &context(dir.path()));
    assert!(result.foundanything && result.errors().len() == 1, "{result:?}");
    assert!(result.errors()[0].ends_with("/proc/net/tcp: no such file or directory"), "{result:?}");
}

#[test]
fn a_question_that_cannot_find_anything_is_refused() {
    let refused = |parameters: Value| Netstat.validate(&parameters).unwrap_err().0;
    assert!(refused(json!({})).starts_with("without a check nothing is found"));
    assert!(refused(json!({"namespaces": true})).starts_with("without a check nothing is found"));
    assert!(refused(json!({"neighborip": ["2001:db8::/32"]})).contains("version 4 alone"));
}

#[test]
fn the_loopback_has_no_hardware_address_and_others_have_theirs_whole() {
    let lo = Netstat.run(&json!({"localmac": ["."]}), &context(Path::new("/")));
    let found = lo.elements["localmac"]["."].as_array().cloned().unwrap_or_default();
    assert!(found.iter().all(|element| element["localmacaddr"] != json!("00:00:00:00:00:00")), "{lo:?}");
    let dir = tempfile::tempdir().unwrap();
    let long = "80:00:02:08:fe:80:00:00:00:00:00:00:00:11:22:33:44:55:66:77";
    for interface in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        let path = dir.path().join("sys/class/net").join(interface.file_name());
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("address"), format!("{long}\n")).unwrap();
    }
    let found = Netstat.run(&json!({"localmac": ["66:77$"]}), &context(dir.path()));
    assert_eq!(found.elements["localmac"]["66:77$"][0]["localmacaddr"], json!(long));
}
