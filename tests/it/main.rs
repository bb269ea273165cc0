//! The one integration test binary.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod authzen;
#[cfg(test)]
mod domain;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod http;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod results;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod token;
