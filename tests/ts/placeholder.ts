// Keeps the type check of this package alive until its first real file arrives.
export {};
