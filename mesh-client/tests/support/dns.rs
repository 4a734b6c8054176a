//! A name server on loopback that says what a test wants it to say, over UDP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// Answers as long as it lives.
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    records: BTreeMap<(Name, u16), (u32, Vec<RData>)>,
    is_dead: bool,
}

impl Dns {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let served = Arc::clone(&zone);
        let serving = tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let answer = served.lock().unwrap().answer(&bytes[..length]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, zone, serving }
    }

    /// From here on a name has these addresses, for as many seconds.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        let of = |is_v4: bool| {
            addresses
                .iter()
                .filter(move |ip| ip.is_ipv4() == is_v4)
                .map(|ip| RData::from(*ip))
        };
        self.say(name, RecordType::A, ttl, of(true).collect());
        self.say(name, RecordType::AAAA, ttl, of(false).collect());
    }

    /// From here on a name has these SRV records: priority, weight, port and target.
    pub fn services(&self, name: &str, ttl: u32, services: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, name_of(target)))
        };
        self.say(name, RecordType::SRV, ttl, services.iter().map(record).collect());
    }

    fn say(&self, name: &str, kind: RecordType, ttl: u32, records: Vec<RData>) {
        let key = (name_of(name), kind.into());
        self.zone.lock().unwrap().records.insert(key, (ttl, records));
    }

    /// Says nothing any more, or speaks again.
    pub fn die(&self, is_dead: bool) {
        self.zone.lock().unwrap().is_dead = is_dead;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Zone {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        if self.is_dead {
            return None;
        }
        let asked = Message::from_vec(question).unwrap();
        let query = asked.queries[0].clone();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        let name = Name::from_ascii(query.name().to_ascii().to_lowercase()).unwrap();
        let is_known = self.records.keys().any(|(known, _)| *known == name);
        if !is_known {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        if let Some((ttl, records)) = self.records.get(&(name, query.query_type().into())) {
            let records = records.iter().cloned();
            answer.add_answers(records.map(|data| Record::from_rdata(query.name().clone(), *ttl, data)));
        }
        answer.add_query(query);
        Some(answer.to_vec().unwrap())
    }
}

fn name_of(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}
