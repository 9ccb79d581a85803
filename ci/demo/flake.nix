{
  description = "The demo's repository: plain derivations, so nothing is downloaded";

  outputs =
    { self }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = make: builtins.listToAttrs (map (system: { name = system; value = make system; }) systems);
      derive =
        system: name: script: inputs:
        derivation (
          {
            inherit name system;
            builder = "/bin/sh";
            args = [
              "-eu"
              "-c"
              script
            ];
          }
          // inputs
        );
      say = builtins.readFile ./greeting.txt;
    in
    {
      packages = each (system: {
        default = self.packages.${system}.greeting;
        greeting = derive system "greeting" ''
          echo "writing the greeting"
          printf '%s' "$say" > "$out"
        '' { inherit say; };
        manual = derive system "manual" ''
          for chapter in one two three; do echo "chapter $chapter"; done
          echo "see $greeting" > "$out"
        '' { greeting = self.packages.${system}.greeting; };
      });
      checks = each (system: {
        greets-the-world = derive system "greets-the-world" ''
          read -r line < "$greeting"
          echo "the greeting says: $line"
          case "$line" in
            *world*) echo ok > "$out" ;;
            *) echo "expected a greeting for the world, got: $line" >&2; exit 1 ;;
          esac
        '' { greeting = self.packages.${system}.greeting; };
      });
    };
}
