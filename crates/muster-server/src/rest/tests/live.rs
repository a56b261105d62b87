//! The routes with a database and sockets.
