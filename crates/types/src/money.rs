//! Currencies of ISO 4217 and amounts in minor units.
//!
//! Money is never a floating-point number. An amount is a count of the currency's minor unit (cents for USD, yen for
//! JPY); the decimal text that people write is parsed exactly or refused.

use std::fmt;
use std::str::FromStr;

/// An amount in minor units of some currency. Zero is never a valid amount of a leg.
pub type Amount = u64;

/// A currency, by its ISO 4217 numeric code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u16);

/// (alphabetic code, numeric code, digits after the decimal point), ordered by alphabetic code. ISO 4217:2015 list one.
const CURRENCIES: &[(&str, u16, u8)] = &[
    ("AED", 784, 2),
    ("AFN", 971, 2),
    ("ALL", 8, 2),
    ("AMD", 51, 2),
    ("AOA", 973, 2),
    ("ARS", 32, 2),
    ("AUD", 36, 2),
    ("AWG", 533, 2),
    ("AZN", 944, 2),
    ("BAM", 977, 2),
    ("BBD", 52, 2),
    ("BDT", 50, 2),
    ("BHD", 48, 3),
    ("BIF", 108, 0),
    ("BMD", 60, 2),
    ("BND", 96, 2),
    ("BOB", 68, 2),
    ("BRL", 986, 2),
    ("BSD", 44, 2),
    ("BTN", 64, 2),
    ("BWP", 72, 2),
    ("BYN", 933, 2),
    ("BZD", 84, 2),
    ("CAD", 124, 2),
    ("CDF", 976, 2),
    ("CHF", 756, 2),
    ("CLF", 990, 4),
    ("CLP", 152, 0),
    ("CNY", 156, 2),
    ("COP", 170, 2),
    ("CRC", 188, 2),
    ("CUP", 192, 2),
    ("CVE", 132, 2),
    ("CZK", 203, 2),
    ("DJF", 262, 0),
    ("DKK", 208, 2),
    ("DOP", 214, 2),
    ("DZD", 12, 2),
    ("EGP", 818, 2),
    ("ERN", 232, 2),
    ("ETB", 230, 2),
    ("EUR", 978, 2),
    ("FJD", 242, 2),
    ("FKP", 238, 2),
    ("GBP", 826, 2),
    ("GEL", 981, 2),
    ("GHS", 936, 2),
    ("GIP", 292, 2),
    ("GMD", 270, 2),
    ("GNF", 324, 0),
    ("GTQ", 320, 2),
    ("GYD", 328, 2),
    ("HKD", 344, 2),
    ("HNL", 340, 2),
    ("HTG", 332, 2),
    ("HUF", 348, 2),
    ("IDR", 360, 2),
    ("ILS", 376, 2),
    ("INR", 356, 2),
    ("IQD", 368, 3),
    ("IRR", 364, 2),
    ("ISK", 352, 0),
    ("JMD", 388, 2),
    ("JOD", 400, 3),
    ("JPY", 392, 0),
    ("KES", 404, 2),
    ("KGS", 417, 2),
    ("KHR", 116, 2),
    ("KMF", 174, 0),
    ("KPW", 408, 2),
    ("KRW", 410, 0),
    ("KWD", 414, 3),
    ("KYD", 136, 2),
    ("KZT", 398, 2),
    ("LAK", 418, 2),
    ("LBP", 422, 2),
    ("LKR", 144, 2),
    ("LRD", 430, 2),
    ("LSL", 426, 2),
    ("LYD", 434, 3),
    ("MAD", 504, 2),
    ("MDL", 498, 2),
    ("MGA", 969, 2),
    ("MKD", 807, 2),
    ("MMK", 104, 2),
    ("MNT", 496, 2),
    ("MOP", 446, 2),
    ("MRU", 929, 2),
    ("MUR", 480, 2),
    ("MVR", 462, 2),
    ("MWK", 454, 2),
    ("MXN", 484, 2),
    ("MYR", 458, 2),
    ("MZN", 943, 2),
    ("NAD", 516, 2),
    ("NGN", 566, 2),
    ("NIO", 558, 2),
    ("NOK", 578, 2),
    ("NPR", 524, 2),
    ("NZD", 554, 2),
    ("OMR", 512, 3),
    ("PAB", 590, 2),
    ("PEN", 604, 2),
    ("PGK", 598, 2),
    ("PHP", 608, 2),
    ("PKR", 586, 2),
    ("PLN", 985, 2),
    ("PYG", 600, 0),
    ("QAR", 634, 2),
    ("RON", 946, 2),
    ("RSD", 941, 2),
    ("RUB", 643, 2),
    ("RWF", 646, 0),
    ("SAR", 682, 2),
    ("SBD", 90, 2),
    ("SCR", 690, 2),
    ("SDG", 938, 2),
    ("SEK", 752, 2),
    ("SGD", 702, 2),
    ("SHP", 654, 2),
    ("SLE", 925, 2),
    ("SOS", 706, 2),
    ("SRD", 968, 2),
    ("SSP", 728, 2),
    ("STN", 930, 2),
    ("SVC", 222, 2),
    ("SYP", 760, 2),
    ("SZL", 748, 2),
    ("THB", 764, 2),
    ("TJS", 972, 2),
    ("TMT", 934, 2),
    ("TND", 788, 3),
    ("TOP", 776, 2),
    ("TRY", 949, 2),
    ("TTD", 780, 2),
    ("TWD", 901, 2),
    ("TZS", 834, 2),
    ("UAH", 980, 2),
    ("UGX", 800, 0),
    ("USD", 840, 2),
    ("UYU", 858, 2),
    ("UZS", 860, 2),
    ("VED", 926, 2),
    ("VES", 928, 2),
    ("VND", 704, 0),
    ("VUV", 548, 0),
    ("WST", 882, 2),
    ("XAF", 950, 0),
    ("XCD", 951, 2),
    ("XCG", 532, 2),
    ("XOF", 952, 0),
    ("XPF", 953, 0),
    ("YER", 886, 2),
    ("ZAR", 710, 2),
    ("ZMW", 967, 2),
    ("ZWG", 924, 2),
];

/// Whether there is a currency, by numeric code (three digits).
const KNOWN: [bool; 1_000] = {
    let mut known = [false; 1_000];
    let mut row = 0;
    while row < CURRENCIES.len() {
        known[CURRENCIES[row].1 as usize] = true;
        row += 1;
    }
    known
};

/// Why a text is not a currency or an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not an alphabetic ISO 4217 code in capitals.
    #[error("'{0}' is not an ISO 4217 currency code, such as USD")]
    UnknownCurrency(String),
    /// Not a plain decimal number.
    #[error("'{0}' is not an amount: expected digits with an optional decimal point, such as 12.34")]
    NotANumber(String),
    /// A sign: direction is given by from and to, never by a sign.
    #[error("'{0}' is negative: an amount is always positive, swap the accounts instead")]
    Negative(String),
    /// More digits after the point than the currency has.
    #[error("'{text}' has more decimals than {currency} allows ({digits})")]
    TooManyDecimals {
        /// What was given.
        text: String,
        /// The currency it was given for.
        currency: Currency,
        /// How many decimals that currency has.
        digits: u8,
    },
    /// Larger than an unsigned 64-bit count of minor units.
    #[error("'{0}' is too large")]
    TooLarge(String),
    /// Nothing to move.
    #[error("an amount must not be zero")]
    Zero,
}

impl Currency {
    /// US dollar, for tests and examples.
    pub const USD: Currency = Currency(840);
    /// Euro, for tests and examples.
    pub const EUR: Currency = Currency(978);

    /// By ISO 4217 numeric code, as it travels in columns; `None` if there is no such currency. Runs once a row of a batch.
    pub const fn from_numeric(code: u16) -> Option<Self> {
        if (code as usize) < KNOWN.len() && KNOWN[code as usize] { Some(Self(code)) } else { None }
    }

    /// The ISO 4217 numeric code.
    pub const fn numeric(self) -> u16 {
        self.0
    }

    fn row(self) -> &'static (&'static str, u16, u8) {
        CURRENCIES.iter().find(|row| row.1 == self.0).expect("a Currency is only made from the table")
    }

    /// The alphabetic code.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// Digits after the decimal point.
    pub fn decimals(self) -> u8 {
        self.row().2
    }

    /// Parses what people write (`12.34`) into minor units, exactly or not at all.
    pub fn parse_amount(self, text: &str) -> Result<Amount, AmountError> {
        if text.starts_with('-') {
            return Err(AmountError::Negative(text.to_owned()));
        }
        let not_a_number = || AmountError::NotANumber(text.to_owned());
        let too_large = || AmountError::TooLarge(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) || text.ends_with('.') {
            return Err(not_a_number());
        }
        let digits = usize::from(self.decimals());
        if fraction.len() > digits {
            return Err(AmountError::TooManyDecimals {
                text: text.to_owned(),
                currency: self,
                digits: self.decimals(),
            });
        }
        let mut amount: u64 = 0;
        for byte in
            whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', digits - fraction.len()))
        {
            let digit = u64::from(byte - b'0');
            amount =
                amount.checked_mul(10).and_then(|amount| amount.checked_add(digit)).ok_or_else(too_large)?;
        }
        if amount == 0 { Err(AmountError::Zero) } else { Ok(amount) }
    }

    /// Writes minor units as people read them: `1234` of USD is `12.34`.
    pub fn format(self, minor_units: i128) -> String {
        let digits = usize::from(self.decimals());
        let sign = if minor_units < 0 { "-" } else { "" };
        let text = format!("{:0width$}", minor_units.unsigned_abs(), width = digits + 1);
        if digits == 0 {
            return format!("{sign}{text}");
        }
        let (whole, fraction) = text.split_at(text.len() - digits);
        format!("{sign}{whole}.{fraction}")
    }
}

impl FromStr for Currency {
    type Err = AmountError;
    fn from_str(code: &str) -> Result<Self, AmountError> {
        CURRENCIES
            .binary_search_by_key(&code, |row| row.0)
            .map(|at| Self(CURRENCIES[at].1))
            .map_err(|_| AmountError::UnknownCurrency(code.chars().take(16).collect()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_and_without_doubles() {
        assert!(CURRENCIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut numeric: Vec<u16> = CURRENCIES.iter().map(|row| row.1).collect();
        numeric.sort_unstable();
        assert!(numeric.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn amounts_are_exact_or_refused() {
        let jpy: Currency = "JPY".parse().unwrap();
        let bhd: Currency = "BHD".parse().unwrap();
        assert_eq!(Currency::USD.parse_amount("12.34"), Ok(1234));
        assert_eq!(Currency::USD.parse_amount("12.3"), Ok(1230));
        assert_eq!(Currency::USD.parse_amount("12"), Ok(1200));
        assert_eq!(jpy.parse_amount("12"), Ok(12));
        assert_eq!(bhd.parse_amount("0.001"), Ok(1));
        assert_eq!(Currency::USD.parse_amount("184467440737095516.15"), Ok(u64::MAX));
        assert!(matches!(Currency::USD.parse_amount("184467440737095516.16"), Err(AmountError::TooLarge(_))));
        assert!(matches!(Currency::USD.parse_amount("1.234"), Err(AmountError::TooManyDecimals { .. })));
        assert!(matches!(jpy.parse_amount("1.0"), Err(AmountError::TooManyDecimals { .. })));
        assert!(matches!(Currency::USD.parse_amount("-1"), Err(AmountError::Negative(_))));
        assert_eq!(Currency::USD.parse_amount("0.00"), Err(AmountError::Zero));
        for text in ["", ".", "1.", ".5", "1e3", "+1", "1,5", " 1", "١"] {
            assert!(matches!(Currency::USD.parse_amount(text), Err(AmountError::NotANumber(_))), "{text}");
        }
    }

    #[test]
    fn amounts_print_as_people_read_them() {
        assert_eq!(Currency::USD.format(1234), "12.34");
        assert_eq!(Currency::USD.format(-5), "-0.05");
        assert_eq!("JPY".parse::<Currency>().unwrap().format(5), "5");
    }

    #[test]
    fn unknown_currencies_are_refused() {
        for code in ["", "usd", "XXX", "US", "DOLLARS"] {
            assert!(code.parse::<Currency>().is_err(), "{code}");
        }
        assert_eq!(Currency::from_numeric(1), None);
        assert_eq!(Currency::from_numeric(u16::MAX), None);
        for &(code, numeric, _) in CURRENCIES {
            assert_eq!(Currency::from_numeric(numeric), code.parse().ok());
        }
    }
}
