{
  thrown = throw "the library says no";
  typed = { x ? 1 }: x;
}
