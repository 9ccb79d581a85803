{
  description = "A small shop: two libraries, a server, a web page, and a test that can fail";

  outputs =
    { self }:
    let
      version = import ./versions.nix;
      step =
        name: needs: lines:
        derivation {
          inherit needs;
          name = "${name}-${version.${name} or "1"}";
          system = "x86_64-linux";
          builder = "/bin/sh";
          PATH = "/bin:/usr/bin";
          args = [
            "-eu"
            "-c"
            (
              ''
                phase() { echo "@nix {\"action\":\"setPhase\",\"phase\":\"$1\"}"; }
                phase unpackPhase
                echo "unpacking sources of ${name}"
                phase buildPhase
              ''
              + lines
              + ''

                echo done > "$out"
              ''
            )
          ];
        };
      compile = files: seconds: ''
        n=0
        for file in ${files}; do
          n=$((n + 1))
          printf '[%d] \033[32mCC\033[0m src/%s.o\n' "$n" "$file"
          sleep ${seconds}
        done
      '';
      money = step "money" [ ] (compile "round tax sum" "0.2");
      cart = step "cart" [ money ] (compile "add remove total" "0.15");
      server = step "server" [ money cart ] (compile "route session main" "0.2");
      web = step "web" [ ] (compile "page style icons" "0.25");
    in
    {
      packages.x86_64-linux = {
        inherit server web;
        default = step "shop" [ server web ] ''echo "putting the shop together"'';
        manual = step "manual" [ ] ''for chapter in one two three; do echo "chapter $chapter"; done'';
      };
      checks.x86_64-linux = {
        lint = step "lint" [ ] ''echo "12 files, nothing to say"'';
        web-test = step "web-test" [ web server ] version.test;
      };
    };
}
