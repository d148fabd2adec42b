"""The arithmetic of batch normalization: `spec` says what it is, `autograd` says how torch may differentiate it."""
