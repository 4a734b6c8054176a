//! The bank's books: customers, accounts and the transfers between them, in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// A customer of the bank.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Customer {
    id: u32,
    name: &'static str,
    tier: &'static str,
    pub(crate) account_id: u32,
}

/// An account; money is counted in the smallest unit of its currency.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    id: u32,
    pub(crate) customer_id: u32,
    currency: &'static str,
    balance: i64,
}

/// What `POST /transfers` asks for.
#[derive(Debug, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) from: u32,
    to: u32,
    amount: i64,
    currency: String,
    #[serde(default)]
    reference: String,
}

/// A transfer that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    id: u64,
    from: u32,
    to: u32,
    amount: i64,
    currency: String,
    reference: String,
    balance: i64,
}

/// Why a transfer was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such account.
    NoAccount,
    /// The accounts keep another currency than the transfer names.
    OtherCurrency,
    /// There is too little on the account.
    NoFunds,
    /// An amount of nothing or less, or from an account to itself.
    Senseless,
}

/// The books.
pub(crate) struct Bank {
    customers: BTreeMap<u32, Customer>,
    books: Mutex<Books>,
}

struct Books {
    accounts: BTreeMap<u32, Account>,
    transfers: u64,
}

impl Bank {
    /// A bank with three customers.
    pub(crate) fn with_demo_data() -> Self {
        let customers = [
            Customer {
                id: 7,
                name: "Ida Bergmann",
                tier: "gold",
                account_id: 42,
            },
            Customer {
                id: 8,
                name: "Tomás Rivera",
                tier: "silver",
                account_id: 43,
            },
            Customer {
                id: 9,
                name: "Mei Tanaka",
                tier: "basic",
                account_id: 44,
            },
        ];
        let accounts = [
            Account {
                id: 42,
                customer_id: 7,
                currency: "EUR",
                balance: 128_050,
            },
            Account {
                id: 43,
                customer_id: 8,
                currency: "EUR",
                balance: 7_715,
            },
            Account {
                id: 44,
                customer_id: 9,
                currency: "JPY",
                balance: 940_000,
            },
        ];
        Self {
            customers: customers.into_iter().map(|customer| (customer.id, customer)).collect(),
            books: Mutex::new(Books {
                accounts: accounts.into_iter().map(|account| (account.id, account)).collect(),
                transfers: 0,
            }),
        }
    }

    /// The customer with this number.
    pub(crate) fn customer(&self, id: u32) -> Option<Customer> {
        self.customers.get(&id).cloned()
    }

    /// The account with this number, as it stands.
    pub(crate) fn account(&self, id: u32) -> Option<Account> {
        self.books().accounts.get(&id).cloned()
    }

    /// Moves the money, all of it or none.
    pub(crate) fn transfer(&self, transfer: Transfer) -> Result<Receipt, Refusal> {
        if transfer.amount <= 0 || transfer.from == transfer.to {
            return Err(Refusal::Senseless);
        }
        let mut books = self.books();
        let from = books.accounts.get(&transfer.from).ok_or(Refusal::NoAccount)?;
        let to = books.accounts.get(&transfer.to).ok_or(Refusal::NoAccount)?;
        if from.currency != transfer.currency || to.currency != transfer.currency {
            return Err(Refusal::OtherCurrency);
        }
        let left = from
            .balance
            .checked_sub(transfer.amount)
            .filter(|left| *left >= 0)
            .ok_or(Refusal::NoFunds)?;
        let right = to.balance.checked_add(transfer.amount).ok_or(Refusal::Senseless)?;
        for (id, balance) in [(transfer.from, left), (transfer.to, right)] {
            if let Some(account) = books.accounts.get_mut(&id) {
                account.balance = balance;
            }
        }
        books.transfers += 1;
        let Transfer {
            from,
            to,
            amount,
            currency,
            reference,
        } = transfer;
        Ok(Receipt {
            id: books.transfers,
            from,
            to,
            amount,
            currency,
            reference,
            balance: left,
        })
    }

    /// A handler that panicked held no half-made transfer: both balances are computed before either is written.
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(from: u32, to: u32, amount: i64, currency: &str) -> Transfer {
        Transfer {
            from,
            to,
            amount,
            currency: currency.to_owned(),
            reference: String::new(),
        }
    }

    #[test]
    fn a_transfer_moves_the_money() {
        let bank = Bank::with_demo_data();
        let receipt = bank.transfer(transfer(42, 43, 50, "EUR")).unwrap();
        assert_eq!(receipt.balance, 128_000);
        assert_eq!(bank.account(43).unwrap().balance, 7_765);
    }

    #[test]
    fn a_refused_transfer_moves_nothing() {
        let bank = Bank::with_demo_data();
        assert_eq!(bank.transfer(transfer(43, 42, 7_716, "EUR")).unwrap_err(), Refusal::NoFunds);
        assert_eq!(bank.transfer(transfer(43, 44, 1, "EUR")).unwrap_err(), Refusal::OtherCurrency);
        assert_eq!(bank.transfer(transfer(43, 99, 1, "EUR")).unwrap_err(), Refusal::NoAccount);
        assert_eq!(bank.transfer(transfer(43, 42, -5, "EUR")).unwrap_err(), Refusal::Senseless);
        assert_eq!(bank.account(43).unwrap().balance, 7_715);
    }
}
