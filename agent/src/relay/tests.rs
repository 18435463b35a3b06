//! The pump over loopback and over a real tunnel: every byte, every FIN and every reset arrives as what it was.
